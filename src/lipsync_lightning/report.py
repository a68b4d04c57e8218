"""`python -m lipsync_lightning.report run=<run or folder of runs>`: what lies there, as one page."""

from lipsync_lightning.checks import given
from lipsync_lightning.cli import command

main = command("report", __doc__, given("run"))

if __name__ == "__main__":
    main()
