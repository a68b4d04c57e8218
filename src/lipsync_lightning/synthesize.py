"""`python -m lipsync_lightning.synthesize out=<folder>`: draw a corpus of raw talking-face videos."""

from lipsync_lightning.checks import given
from lipsync_lightning.cli import command

main = command("synthesize", __doc__, given("out"))

if __name__ == "__main__":
    main()
