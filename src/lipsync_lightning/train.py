"""`python -m lipsync_lightning.train +experiment=stage2`: train a module."""

from lipsync_lightning.checks import require_servable
from lipsync_lightning.cli import command

main = command("train", __doc__, require_servable)

if __name__ == "__main__":
    main()
