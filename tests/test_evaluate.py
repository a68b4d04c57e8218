import json
from pathlib import Path

import pytest

from command_line import CommandLine
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadMedia
from lipsync_lightning.evaluate import chosen_videos, headline, main
from tiny_media import sound_of, write_video
from tiny_recipe import prepared


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, monkeypatch, capfd)


def test_videos_are_spread_evenly_and_too_few_are_refused(tmp_path: Path):
    for index in range(6):
        (tmp_path / f"{index}.mp4").touch()
    assert [path.stem for path in chosen_videos(tmp_path, 3)] == ["0", "2", "4"]
    assert len(chosen_videos(tmp_path, 6)) == 6
    with pytest.raises(BadMedia, match="7 mp4 files wanted, 6 there"):
        chosen_videos(tmp_path, 7)


def test_the_last_system_has_the_plain_names():
    rows = [
        {"system": name, "condition": "other speech", "mouth_correlation": value}
        for name, value in (("a", 0.1), ("b", 0.9))
    ]
    assert headline(rows, ["a", "b"]) == {"mouth_correlation_cross": 0.9, "mouth_correlation_cross_a": 0.1}


def test_an_export_for_other_clips_is_refused(command_line: CommandLine, tmp_path: Path):
    clip = ClipSpec(num_frames=16, fps=25, resolution=64, sample_rate_hz=16000, mel_hz=80, num_mels=80)
    for number, name in enumerate(("seen.mp4", "unseen.mp4")):
        write_video(tmp_path / "raw" / name, 40 + number, sound_of(40))
    prepared(tmp_path / "raw", tmp_path / "demo" / "shards", clip, sources_per_shard=1, max_seconds=2, num_heldout=1)
    settings = ("+evaluation=demo", "demo_dir=demo")
    assert "no export at demo/export_stage1" in command_line.refusal(main, *settings)
    assert "no shards at elsewhere" in command_line.refusal(main, *settings, "data.shards=elsewhere")
    refused = command_line.refusal(main, *settings, "clip=256px_25fps")
    assert "resolution 64 against 256" in refused
    assert not (tmp_path / "demo" / "metrics.json").exists()


def test_metrics_are_plain_json_keys():
    assert json.loads(json.dumps(headline([], ["a"]))) == {}
