"""`python -m lipsync_lightning.prepare recipe=folder recipe.source=<folder of videos>`: raw videos to shards.

`python -m lipsync_lightning.prepare inspect=<folder of shards>`: what lies in such a folder, and whether it is whole.
"""

from lipsync_lightning.cli import command

main = command("prepare", __doc__)

if __name__ == "__main__":
    main()
