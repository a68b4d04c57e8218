"""`python -m lipsync_lightning.demo`: the whole road at demo size, each step one of the library's own commands."""

from lipsync_lightning.cli import command

main = command("demo", __doc__)

if __name__ == "__main__":
    main()
