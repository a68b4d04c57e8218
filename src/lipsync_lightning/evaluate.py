"""`python -m lipsync_lightning.evaluate +models.mine=<export or run> videos=<folder> out=<folder>`: judge models."""

from lipsync_lightning.checks import require_models
from lipsync_lightning.cli import command

main = command("evaluate", __doc__, require_models)

if __name__ == "__main__":
    main()
