"""`python -m lipsync_lightning.infer model=<export> video=<mp4> audio=<wav> out=<mp4>`: lip-sync a video."""

from lipsync_lightning.checks import given
from lipsync_lightning.cli import command

main = command("infer", __doc__, given("model", "video", "audio", "out"))

if __name__ == "__main__":
    main()
