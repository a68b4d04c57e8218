"""`python -m lipsync_lightning.infer model=<export> video=<mp4> audio=<wav> out=<mp4>`: lip-sync a video.

faces=list video=<mp4> out=<png>     a picture of everyone in it, with numbers
batch=<jobs.csv> model=<export>      many jobs, one in every row
"""

from lipsync_lightning.checks import require_job
from lipsync_lightning.cli import command

main = command("infer", __doc__, require_job)

if __name__ == "__main__":
    main()
