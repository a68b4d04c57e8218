"""The YAML files of a recipe's parts build what they name."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lipsync_lightning.cli import build
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.preparation.filters.quality import NoQualityFilter, QualityFilter
from lipsync_lightning.preparation.filters.sync import NoSyncFilter, SyncFilter

PARTS = sorted(
    path
    for group in ("sources", "split", "sync_filter", "quality_filter")
    for path in (CONF_DIR / group).glob("*.yaml")
)


def built(name: str, **settings: object):
    """As an entry point builds it: beside the clip, with values for what a user must give."""
    whole = OmegaConf.create(
        {
            "clip": OmegaConf.load(CONF_DIR / "clip" / "256px_25fps.yaml"),
            "part": OmegaConf.load(CONF_DIR / f"{name}.yaml"),
        }
    )
    for missing in OmegaConf.missing_keys(whole):
        OmegaConf.update(whole, missing, 1)
    return build(OmegaConf.merge(whole, {"part": settings}).part)


@pytest.mark.parametrize("path", PARTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_file_builds_what_it_names_once_what_is_missing_is_given(path: Path):
    config = OmegaConf.load(path)
    assert type(built(f"{path.parent.name}/{path.stem}")).__name__ == config["_target_"].rpartition(".")[2]


def test_the_filters_have_the_published_thresholds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIPSYNC_WEIGHTS", str(tmp_path))
    sync, quality = built("sync_filter/evaluation_syncnet"), built("quality_filter/hyperiqa")
    assert isinstance(sync, SyncFilter)
    assert isinstance(quality, QualityFilter)
    assert (sync.min_confidence, sync.max_offset, quality.min_quality) == (3, 6, 40)
    assert sync.version == "1 min_confidence=3 max_offset=6 judge=evaluation_syncnet:missing"


@pytest.mark.parametrize(
    "name", ["sync_filter/evaluation_syncnet", "sync_filter/own_syncnet", "quality_filter/hyperiqa"]
)
def test_each_worker_chooses_its_own_device(name: str):
    assert built(name).judge.wanted_device == "auto"


def test_an_own_syncnet_reads_the_clip_that_is_prepared():
    sync = built("sync_filter/own_syncnet", min_confidence=0.2)
    assert isinstance(sync.clip, ClipSpec)
    assert sync.judge.clip == sync.clip


def test_a_judge_can_be_skipped():
    assert isinstance(built("sync_filter/none"), NoSyncFilter)
    assert isinstance(built("quality_filter/none"), NoQualityFilter)
