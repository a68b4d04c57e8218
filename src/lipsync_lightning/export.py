"""`python -m lipsync_lightning.export`: a run or released weights become a folder that the pipeline loads, and go back.

run=runs/stage2 out=exports/mine                       the newest weights of a training run
fetch=latentsync-1.6 [needs=training] [out=<folder>]   a release is downloaded, and exported where `out` is given
source=<released file> kind=<kind> out=<folder>        a file in the original format
source=<export, run or folder> kind=<kind> to=latentsync out=<file.pt>   back to the original format
"""

from lipsync_lightning.checks import require_one_source
from lipsync_lightning.cli import command

main = command("export", __doc__, require_one_source)

if __name__ == "__main__":
    main()
