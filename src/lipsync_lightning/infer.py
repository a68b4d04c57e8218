"""`python -m lipsync_lightning.infer model=<export> video=<mp4> audio=<wav> out=<mp4>`: lip-sync a video."""

from lipsync_lightning.cli import command

main = command("infer", __doc__)

if __name__ == "__main__":
    main()
