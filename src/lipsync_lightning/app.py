"""`python -m lipsync_lightning.app model=<export>`: a page in the browser that lip-syncs a video."""

from lipsync_lightning.checks import given
from lipsync_lightning.cli import command

main = command("app", __doc__, given("model"))

if __name__ == "__main__":
    main()
