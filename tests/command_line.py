"""Runs an entry point as its command line does, in this process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra


class CommandLine:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self.monkeypatch, self.capfd = folder, monkeypatch, capfd
        monkeypatch.chdir(folder)

    def run(self, main: Callable[[], None], *arguments: str) -> str:
        """Return what a successful command prints to stdout."""
        self.monkeypatch.setattr(sys, "argv", ["command", *arguments])
        GlobalHydra.instance().clear()
        self.capfd.readouterr()
        main()
        return self.capfd.readouterr().out

    def refusal(self, main: Callable[[], None], *arguments: str) -> str:
        """Return the sentence with which a command refuses, having checked that it fails and shows no traceback."""
        with pytest.raises(SystemExit) as caught:
            self.run(main, *arguments)
        assert caught.value.code not in (0, None)
        shown = self.capfd.readouterr().err
        assert "Traceback" not in shown
        return shown.strip()
