"""examples/lipsync_extras works as docs/extending.md says: found by a folder of YAML, and once it is installed."""

from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import get_object

from lipsync_lightning import composing
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.modules import rebuilding
from lipsync_lightning.modules.syncnet import SyncNetModule
from lipsync_lightning.modules.unet_stage2 import UNetStage2Module
from lipsync_lightning.modules.weights import newest_checkpoint
from lipsync_lightning.preparation.filters import AlignedClip, Rejected
from lipsync_lightning.preparation.filters.quality import QualityFilter
from lipsync_lightning.prepare import main as prepare
from lipsync_lightning.train import main as train
from train_process import TrainProcess, arguments, logged, small_shards, unet_arguments

SOURCE = Path(__file__).parents[1] / "examples" / "lipsync_extras" / "src"
CONF = SOURCE / "lipsync_extras" / "conf"
QUICK = ("trainer.max_steps=1", "trainer.val_check_interval=1", "trainer.limit_val_batches=1")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SOURCE))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the entry point of the wheel tells."""

    def entry_points(group: str) -> list[EntryPoint]:
        return [EntryPoint("lipsync_extras", "lipsync_extras.conf", group)]

    for module in (composing, rebuilding):
        monkeypatch.setattr(module, "entry_points", entry_points)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("extras"))


def trained(run: Path, given: list[str]) -> Path:
    TrainProcess(["--config-dir", str(CONF), *given], run.parent / "log.txt", importable=SOURCE).ends()
    checkpoint = newest_checkpoint(run)
    assert checkpoint
    return checkpoint


def test_a_folder_of_yaml_is_enough_to_train_with_its_loss_callbacks_and_metric(shards, tmp_path, installed):
    run = tmp_path / "run"
    given = [each for each in unet_arguments(shards, run, *QUICK) if not each.startswith(("+experiment", "callbacks="))]
    given += [
        "+experiment=extras",
        "init_from=null",
        "module.unet.block_out_channels=[32,32,32]",
        "module.losses.terms.sync=null",
    ]
    checkpoint = trained(run, given)
    for name in ("train/loss_temporal_difference", "vitals/attention_gradient_norm", "val/mouth_sharpness"):
        assert np.isfinite(logged(run, name)).all()
        assert logged(run, name)
    module = UNetStage2Module.load_from_checkpoint(checkpoint)
    assert "temporal_difference" in module.losses.terms


def test_its_syncnet_trains_and_hears_no_constant(shards, tmp_path, installed):
    run = tmp_path / "run"
    given = [each for each in arguments(shards, run, *QUICK) if not each.startswith("+experiment")]
    checkpoint = trained(run, [*given, "+experiment=extras_syncnet", "module.schedule.num_warmup_steps=0"])
    syncnet = SyncNetModule.load_from_checkpoint(checkpoint).syncnet.eval()
    assert type(syncnet).__name__ == "MovingSyncNet"
    frames, mel = torch.randn(2, 48, 32, 64), torch.randn(2, 1, 80, 52)
    constant = torch.randn(2, 3, 32, 64).repeat(1, 16, 1, 1)
    torch.testing.assert_close(syncnet.embed_frames(frames + constant), syncnet.embed_frames(frames))
    torch.testing.assert_close(syncnet.embed_mel(mel + torch.randn(2, 1, 80, 1)), syncnet.embed_mel(mel))


def test_once_installed_every_command_finds_its_yaml(command_line, installed):
    told = command_line.run(train, "+experiment=extras", "--cfg", "job")
    assert "lipsync_extras.losses.TemporalDifferenceLoss" in told
    told = command_line.run(prepare, "recipe=focused", "recipe.source=raw", "--cfg", "job")
    assert "lipsync_extras.scorers.FocusScorer" in told


def test_its_scorer_keeps_what_is_in_focus():
    keep = QualityFilter(scorer=get_object("lipsync_extras.scorers.FocusScorer")(), min_quality=50)
    sharp = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    aligned = AlignedClip(clip=ClipSpec(), first_frame=0, person=0, faces=sharp, sound=np.zeros(1, np.float32))
    assert keep(aligned).scores["visual_quality"] > 50
    with pytest.raises(Rejected, match="at least 50 needed"):
        keep(replace(aligned, faces=sharp // 100 + 90))


def test_the_metric_is_one_for_the_real_frames_and_the_loss_is_zero():
    video, keep = torch.rand(2, 4, 3, 32, 32) * 2 - 1, torch.zeros(2, 1, 32, 32)
    metric = get_object("lipsync_extras.metrics.MouthSharpness")()
    metric.update(video, video, keep)
    assert float(metric.compute()) == 1
    metric.reset()
    metric.update(video / 2, video, keep)
    assert float(metric.compute()) == pytest.approx(0.5)
    loss = get_object("lipsync_extras.losses.TemporalDifferenceLoss")()
    assert float(loss(video + 0.5, video)) == pytest.approx(0, abs=1e-6)
    assert float(loss(video.flip(1), video)) > 0.1
