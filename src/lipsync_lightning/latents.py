"""`python -m lipsync_lightning.latents shards=shards/mine`: shards with latents and audio states."""

from lipsync_lightning.checks import given
from lipsync_lightning.cli import command

main = command("latents", __doc__, given("shards"))

if __name__ == "__main__":
    main()
