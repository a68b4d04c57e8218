"""The command that repeats the paper's claims: what it runs, in which order, and what it does not run twice."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from lipsync_lightning import ablate
from lipsync_lightning.errors import StepFailed
from lipsync_lightning.paths import CONF_DIR

FIGURES = ("sync_confidence", "mouth_correlation", "mouth_correlation_old", "mouth_correlation_chance", "mouth_correlation_shuffled")
MORE_FIGURES = ("sync_confidence_shuffled", "psnr", "ssim", "temporal_error", "sync_confidence_real", "mouth_correlation_real")


def composed(out: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return compose("ablate", overrides=[f"out={out}", f"report={out}/experiments.md", *overrides])


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be run; each run leaves what the real one leaves."""
    ran: list[list[str]] = []

    def leave_results(command: list[str], log: Path) -> None:
        ran.append(command)
        if command[0] == "lipsync_lightning.train":
            leave_runs(command)
        if command[0] == "lipsync_lightning.judge":
            runs = next(argument for argument in command if argument.startswith("run=")).removeprefix("run=").split(",")
            for number, run in enumerate(runs):
                scores = {name: 0.1 * number + 0.01 * len(run) for name in (*FIGURES, *MORE_FIGURES)}
                (Path(run) / "scores.json").write_text(json.dumps({**scores, "rows": []}))

    monkeypatch.setattr(ablate, "run_logged", leave_results)
    return ran


def leave_runs(command: list[str]) -> None:
    values = dict(argument.split("=", 1) for argument in command if "=" in argument)
    name = values["+experiment"]
    for seed in values["seed"].split(","):
        folder = Path(values["runs_dir"]) / name / f"seed_{seed}"
        (folder / ("unet" if "stage" in name else "syncnet")).mkdir(parents=True)
        columns = ["val/auc", "val/accuracy", "val/offset_accuracy", "val/psnr_mouth", "val/sync_generated"]
        (folder / "metrics.csv").write_text(f"step,{','.join(columns)}\n9{',0.5' * len(columns)}\n")


def trained(commands: list[list[str]]) -> list[str]:
    return [command[2].removeprefix("+experiment=ablation/") for command in commands if command[0] == "lipsync_lightning.train"]


def run(config: DictConfig) -> None:
    ablate.main.__wrapped__.__wrapped__(config)  # without Hydra and without its error handling


def test_everything_a_run_rests_on_is_trained_before_it(tmp_path, commands):
    run(composed(tmp_path))
    order = trained(commands)
    assert order[:2] == ["autoencoder", "judge"]
    assert max(order.index(name) for name in order if name.startswith("syncnet")) < min(
        order.index(name) for name in order if name.startswith("stage")
    )
    for experiment in (name for name in order if name.startswith("stage2")):
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
            rests_on = compose("train", overrides=[f"+experiment=ablation/{experiment}"]).init_from
        assert order.index(Path(rests_on).parent.name) < order.index(experiment)


def test_every_experiment_of_the_folder_is_part_of_a_claim_or_rested_on(tmp_path, commands):
    run(composed(tmp_path))
    there = {path.stem for path in (CONF_DIR / "experiment" / "ablation").glob("*.yaml")} - {"common", "unet_common"}
    assert set(trained(commands)) == there


def test_the_report_has_a_table_and_a_verdict_for_every_claim(tmp_path, commands):
    config = composed(tmp_path)
    run(config)
    text = (tmp_path / "experiments.md").read_text()
    for name, claim in config.claims.items():
        section = text.split(f"## {claim.title}")[1].split("\n## ")[0]
        assert all(f"| {label} |" in section for label in claim.rows)
        assert all(f"| {expected.says} |" in section for expected in claim.expects)
        assert (tmp_path / "experiments" / f"{name}.png").is_file()


def test_a_second_call_runs_nothing_and_a_lost_run_alone_is_trained_again(tmp_path, commands):
    config = composed(tmp_path)
    run(config)
    commands.clear()
    run(config)
    assert commands == []
    (tmp_path / "ablation" / "stage2" / "seed_2" / "unet").rmdir()
    (tmp_path / "ablation" / "stage2" / "seed_2" / "scores.json").unlink()
    run(config)
    assert trained(commands) == ["stage2"]
    assert "seed=2" in commands[0]


def test_other_corpora_are_made_when_their_settings_change(tmp_path, commands):
    run(composed(tmp_path))
    commands.clear()
    config = composed(tmp_path)
    config.steps.corpus[0].append("leak=0.3")
    run(config)
    assert [command[0] for command in commands] == ["lipsync_lightning.synthesize"] * 2


def test_a_command_that_fails_ends_the_rest_and_names_its_log(tmp_path):
    log = tmp_path / "logs" / "broken.log"
    with pytest.raises(StepFailed, match=r"no_such_command failed; .*broken\.log says why"):
        ablate.run_logged(["lipsync_lightning.no_such_command"], log)
    assert "No module named" in log.read_text()
