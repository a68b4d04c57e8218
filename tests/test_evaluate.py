import json
from pathlib import Path

import pytest

from command_line import CommandLine
from lipsync_lightning.commands.evaluate import chosen_videos
from lipsync_lightning.errors import BadMedia
from lipsync_lightning.evaluate import main
from lipsync_lightning.export import main as export
from lipsync_lightning.media.video import probe
from tiny_media import sound_of, write_video
from tiny_shards import CLIP, write_real_shards

CLIP_VALUES = [f"clip.{name}={value}" for name, value in CLIP.as_dict().items()]


@pytest.fixture
def settings(run: Path, tmp_path: Path, make_syncnet, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("LIPSYNC_WEIGHTS", str(Path(__file__).parents[1] / "weights"))
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "unseen" / name, 45, sound_of(45))
    make_syncnet().save_pretrained(tmp_path / "syncnet")
    networks = ["faces=sidecar", "models/features@lpips=lpips_untrained", "syncnet.path=syncnet", "device=cpu"]
    sampling = ["of_runs.num_inference_steps=1", "data.batch_size=2", "data.num_workers=0"]
    return ["videos=unseen", "num_videos=2", "out=judged", *CLIP_VALUES, *networks, *sampling]


def test_videos_are_spread_evenly_and_too_few_are_refused(tmp_path: Path):
    for index in range(6):
        (tmp_path / f"{index}.mp4").touch()
    assert [path.stem for path in chosen_videos(tmp_path, 3)] == ["0", "2", "4"]
    assert len(chosen_videos(tmp_path, 6)) == 6
    with pytest.raises(BadMedia, match=r"7 videos \(\.mp4, .*\) wanted, 6 there"):
        chosen_videos(tmp_path, 7)


def test_videos_of_any_usual_kind_are_seen_in_any_case(tmp_path: Path):
    for name in ("a.MP4", "b.mov", "c.Mkv", "d.webm", "e.json", "f.wav", "._a.mp4", "g"):
        (tmp_path / name).touch()
    assert [path.name for path in chosen_videos(tmp_path, 4)] == ["a.MP4", "b.mov", "c.Mkv", "d.webm"]
    with pytest.raises(BadMedia, match="5 videos"):
        chosen_videos(tmp_path, 5)


def test_an_export_and_its_run_are_judged_alike_beside_the_real_videos(settings, run: Path, command_line: CommandLine):
    command_line.run(export, f"run={run}", "out=mine", "num_inference_steps=1", "reference=previous_window")
    write_real_shards(Path("shards"), "heldout", [[9, 12], [8]])
    models = ["+models.before=mine", f"+models.after={run}"]
    said = command_line.run(main, *models, *settings, "data.shards=shards", "bars={psnr: 99}")
    metrics = json.loads(Path("judged/metrics.json").read_text())
    figures = metrics["figures"]
    assert list(figures) == ["real video", "before", "after"]
    assert {"sync_confidence", "sync_distance", "sync_offset", "syncnet_accuracy", "syncnet_auc"} == set(
        figures["real video"]
    )
    assert figures["before"].items() < figures["after"].items()
    assert {"psnr", "ssim", "lpips", "temporal_error", "sync_confidence"} < set(figures["before"])
    assert set(figures["after"]) - set(figures["before"]) == {"sync_confidence_shuffled"}
    assert len(metrics["rows"]) == 2 * (1 + 2 + 3)
    assert probe(Path("judged") / metrics["rows"][-1]["video"]).width == 64
    assert "≥ 99.0 dB missed" in said
    assert "a says the words of b" in Path("judged/report/index.html").read_text()


def test_what_cannot_be_judged_is_refused_before_any_work(settings, run: Path, command_line: CommandLine):
    mine = f"+models.mine={run}"
    assert "name at least one export or run" in command_line.refusal(main, *settings)
    assert "no export at nowhere" in command_line.refusal(main, "+models.mine=nowhere", *settings)
    assert "wanted, 2 there" in command_line.refusal(main, mine, *settings, "num_videos=9")
    assert "no shards at elsewhere" in command_line.refusal(main, mine, *settings, "data.shards=elsewhere")
    assert "resolution 32 against 64" in command_line.refusal(main, mine, *settings, "clip.resolution=64")
    assert not Path("judged").exists()
