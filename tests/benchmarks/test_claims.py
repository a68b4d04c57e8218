"""The paper's claims: every variant composes, is trained after what it rests on, and is judged by plain statistics."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lipsync_lightning.cli import build
from lipsync_lightning.files import CONF_DIR

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
claims: Any = importlib.import_module("claims")

CONFIG = claims.load(["out=here"])
GROUPS = claims.runs_in_order(CONFIG)
VARIANTS = sorted({variant for group in GROUPS for variant, _ in group})


def composed(variant: str) -> Any:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return compose("train", overrides=[*claims.overrides(CONFIG["variants"], variant, 3), "run_dir=here/run"])


def results(*values: float, figure: str = "psnr") -> list[Any]:
    return [claims.Result({figure: value}, {figure: {49: value / 2, 99: value}}) for value in values]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_composes_and_reads_only_what_other_variants_leave(variant):
    config = composed(variant)
    config.demo_dir = "elsewhere"
    text = OmegaConf.to_yaml(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    read = [line for line in text.splitlines() if "elsewhere" in line and "get_with" not in line]
    assert [line.strip() for line in read if "=" not in line] == ["demo_dir: elsewhere"]
    if "syncnet" in config.module:
        clip, shape = build(config.clip), (12, 8, 8) if "latent" in variant else (3, 16, 32)
        with torch.device("meta"):
            syncnet = build(config.module.syncnet)
            lips = syncnet.embed_frames(torch.empty(2, clip.num_frames * shape[0], *shape[1:]))
            sound = syncnet.embed_mel(torch.empty(2, 1, clip.num_mels, clip.mel_columns))
        assert lips.shape == sound.shape


def test_what_a_run_rests_on_is_trained_before_it():
    order = [{variant for variant, _ in group} for group in GROUPS]
    (judge,) = [place for place, group in enumerate(order) if "judge" in group]
    assert "autoencoder" in order[0]
    assert judge < next(place for place, group in enumerate(order) if "stage1_velocity" in group)
    for variant in VARIANTS:
        place = next(place for place, group in enumerate(order) if variant in group)
        if variant.startswith("stage2"):
            start = Path(composed(variant).init_from)
            assert start.name == "seed_3"
            assert start.parent.name in set().union(*order[:place])


def test_the_report_tells_of_these_claims_and_of_the_steps_that_are_taken():
    report = (ROOT / "docs" / "experiments.md").read_text()
    for claim in CONFIG["claims"].values():
        section = report.split(f"## {claim['title']}\n")[1].split("\n## ")[0]
        assert all(f"\n| {row} |" in section for row in (*claim["rows"], *claim["expects"]))
    steps = [composed(variant).trainer.max_steps for variant in ("stage1", "stage2", "syncnet")]
    assert "{} steps of stage 1, {} of stage 2, {} of SyncNet".format(*steps) in " ".join(report.split())


@pytest.mark.parametrize(
    ("more", "less", "word"),
    [
        ((3, 4, 5), (2, 3, 4), "seen"),
        ((1, 2, 3), (2, 3, 4), "opposite"),
        ((3, 2, 5), (2, 3, 4), "not seen"),
        ((2,), (2,), "not seen"),
    ],
)
def test_a_claim_is_seen_only_if_every_seed_shows_it(more, less, word):
    assert claims.verdict("psnr", results(*more), results(*less))[0] == word


def test_a_section_shows_spreads_verdicts_and_a_race_to_the_level_that_all_reach(tmp_path):
    rows = {"first": "a", "second": "b"}
    claim = {"title": "1. A claim", "expected": "That it holds.", "rows": rows, "columns": ["psnr", "ssim"]}
    claim |= {"expects": {"a above b": ["psnr", "a", "b"]}, "race": ["psnr"], "curves": ["psnr"]}
    found = {"a": results(3, 5), "b": results(2, 6)}
    lines = claims.section(claim, found, {"psnr": "PSNR", "ssim": "SSIM"}, tmp_path / "pictures" / "claim.png")
    assert lines[4:6] == ["| | PSNR | SSIM |", "| --- | ---: | ---: |"]
    assert {"| first | 4.000 ± 1.414 | – |", "| second | 4.000 ± 2.828 | – |"} <= set(lines)
    assert "| a above b | **not seen** | +1.000, −1.000 (PSNR) |" in lines
    assert {"| first | 100, 50 |", "| second | 100, 50 |", "| *level* | 2.000 |"} <= set(lines)
    assert lines[-2] == "![1. A claim](pictures/claim.png)"
    assert (tmp_path / "pictures" / "claim.png").is_file()


def test_only_data_that_the_wanted_claims_read_is_made():
    assert list(claims.data_read(CONFIG)) == list(CONFIG["data"])
    assert list(claims.data_read(claims.load(["out=here", "only=[mask]"]))) == ["raw", "shards"]


def test_claims_that_are_not_wanted_keep_their_sections(tmp_path):
    report = tmp_path / "report.md"
    report.write_text("# Told\n\nBefore.\n\n## 1. First\n\noutdated\n\n## 2. Second\n\nkept\n")
    claim = {"title": "1. First", "expected": "", "rows": {"a": "a"}, "columns": [], "curves": ["psnr"], "expects": {}}
    config = {**CONFIG, "claims": {"first": claim}, "report": str(report), "only": ["first"]}
    claims.write_report(config, {"a": results(1.0)})
    written = report.read_text()
    assert written.startswith("# Told\n\nBefore.\n\n## 1. First\n")
    assert "outdated" not in written
    assert "World: `leak` 1, `second_voice` 0.0." in written
    assert written.endswith("\n\n## 2. Second\n\nkept\n")
    claims.write_report({**config, "only": None}, {"a": results(1.0)})
    assert "kept" not in report.read_text()


def test_a_resumed_run_is_read_from_its_beginning_beside_its_scores(tmp_path):
    (tmp_path / "metrics.000.csv").write_text("step,train/loss,val/auc\n20,1.0,\n49,,0.6\n99,,0.7\n")
    (tmp_path / "metrics.csv").write_text("step,val/auc\n99,0.8\n149,0.9\n")
    scores = tmp_path / "judged" / "usually" / "metrics.json"
    scores.parent.mkdir(parents=True)
    scores.write_text('{"figures": {"real video": {"ssim": 1.0}, "this": {"psnr": 21.0}}}')
    result = claims.read_result(scores)
    assert result.scores == {"val/auc": 0.9, "psnr": 21.0, "ssim_real": 1.0}
    assert result.curves == {"val/auc": {49: 0.6, 99: 0.8, 149: 0.9}}


@pytest.mark.parametrize("way", ["usually", "unguided", "in_twenty_steps"])
def test_a_run_is_judged_by_settings_that_evaluate_knows(way):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        judged = claims.overrides(CONFIG["judged"], way, 1)
        config = compose("evaluate", overrides=["+models.this=here/stage1/seed_1", "out=out", *judged])
    assert config.syncnet.path == "here/judge/seed_101/syncnet"
    assert config.of_runs.num_inference_steps == (20 if way == "in_twenty_steps" else 3)


def test_a_command_runs_once_and_its_failure_and_its_change_are_told(tmp_path):
    config, leaves, log = {"out": str(tmp_path)}, tmp_path / "leaves", tmp_path / "logs" / "step.log"
    with pytest.raises(SystemExit, match=r"no_such_module failed or was stopped, see .*step\.log"):
        claims.run_once(config, "step", ["no_such_module"], leaves)
    assert "No module named" in log.read_text()
    leaves.mkdir()
    claims.run_once(config, "step", ["platform"], leaves)
    said = log.read_text()
    claims.run_once(config, "step", ["platform"], leaves)
    assert log.read_text() == said
    with pytest.raises(SystemExit, match=r"leaves was made by another command.*out="):
        claims.run_once(config, "step", ["platform", "-h"], leaves)
