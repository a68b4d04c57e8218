"""The command that repeats the paper's claims: what it runs, in which order, and what it does not run twice."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from lipsync_lightning import ablate
from lipsync_lightning.errors import StepFailed, WouldOverwrite
from lipsync_lightning.files import CONF_DIR

FIGURES = (
    "sync_confidence",
    "mouth_correlation",
    "mouth_correlation_old",
    "mouth_correlation_chance",
    "mouth_correlation_shuffled",
)
MORE_FIGURES = (
    "sync_confidence_shuffled",
    "psnr",
    "ssim",
    "temporal_error",
    "sync_confidence_real",
    "mouth_correlation_real",
)


def composed(out: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return compose("ablate", overrides=[f"out={out}", f"report={out}/experiments.md", *overrides])


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be run; each run leaves what the real one leaves. Composing, which takes seconds, is left out."""
    ran: list[list[str]] = []

    def leave_results(command: list[str], root: Path, log: str) -> None:
        ran.append(command)
        if command[0] == "lipsync_lightning.train":
            leave_runs(command)
        if command[0] == "lipsync_lightning.judge":
            leave_scores(command)

    monkeypatch.setattr(ablate, "run_logged", leave_results)
    monkeypatch.setattr(
        ablate,
        "composed",
        lambda root, overrides: {key: value for key, value in given(overrides).items() if key != "run_dir"},
    )
    return ran


def given(overrides: list[str]) -> dict[str, str]:
    return dict(override.split("=", 1) for override in overrides if "=" in override)


def without(values: dict[str, str], left_out: str) -> dict[str, str]:
    return {key: value for key, value in values.items() if key != left_out}


def leave_runs(command: list[str]) -> None:
    values = given(command)
    name = values["+experiment"]
    for seed in values["seed"].split(","):
        folder = Path(values["runs_dir"]) / name / f"seed_{seed}"
        (folder / ("unet" if "stage" in name else "syncnet")).mkdir(parents=True)
        OmegaConf.save(OmegaConf.create(values | {"seed": seed}), folder / "config.yaml")
        columns = ["val/auc", "val/accuracy", "val/offset_accuracy", "val/psnr_mouth", "val/sync_generated"]
        (folder / "metrics.csv").write_text(f"step,{','.join(columns)}\n9{',0.5' * len(columns)}\n")


def leave_scores(command: list[str]) -> None:
    values = given(command)
    for number, run in enumerate(values.pop("run").split(",")):
        scores = {name: 0.1 * number + 0.01 * len(run) for name in (*FIGURES, *MORE_FIGURES)}
        (Path(run) / values["scores"]).write_text(json.dumps({**scores, "settings": values, "rows": []}))


def trained(commands: list[list[str]]) -> list[str]:
    return [
        command[2].removeprefix("+experiment=ablation/")
        for command in commands
        if command[0] == "lipsync_lightning.train"
    ]


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
    run(config)
    assert trained(commands) == ["stage2"]
    assert "seed=2" in commands[0]
    assert f"run={tmp_path / 'ablation' / 'stage2' / 'seed_2'}" in commands[1]  # judged again: its network is newer


def test_a_run_of_other_settings_is_neither_taken_for_this_one_nor_lost(tmp_path, commands):
    config = composed(tmp_path)
    run(config)
    stored = tmp_path / "ablation" / "stage2" / "seed_2" / "config.yaml"
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(stored), {"trainer": {"max_steps": 3}}), stored)
    with pytest.raises(WouldOverwrite, match=r"stage2/seed_2 was trained with another trainer"):
        run(config)
    assert (stored.parent / "unet").is_dir()


def test_a_changed_judge_judges_again_and_trains_nothing(tmp_path, commands):
    run(composed(tmp_path))
    commands.clear()
    config = composed(tmp_path)
    config.judged_as.usually.append("seed=7")
    run(config)
    assert {command[0] for command in commands} == {"lipsync_lightning.judge"}


def test_a_training_that_was_stopped_from_outside_is_not_judged(tmp_path, commands, monkeypatch):
    def stopped(command: list[str], root: Path, log: str) -> None:
        commands.append(command)  # and it left no network, with status 0

    monkeypatch.setattr(ablate, "run_logged", stopped)
    with pytest.raises(StepFailed, match="training was stopped; the same command goes on"):
        run(composed(tmp_path))
    assert "lipsync_lightning.judge" not in {command[0] for command in commands}


def test_corpora_of_other_settings_are_not_mixed_in(tmp_path, commands):
    run(composed(tmp_path))
    config = composed(tmp_path)
    config.steps.corpus[0].append("leak=0.3")
    with pytest.raises(WouldOverwrite, match="was made by other commands"):
        run(config)


def test_settings_are_composed_inside_a_command_as_the_run_itself_composes_them(tmp_path):
    overrides = ["+experiment=ablation/stage1", "seed=2", f"runs_dir={tmp_path}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):  # as Hydra does for the command
        settings = ablate.composed("train", overrides)
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        OmegaConf.save(compose("train", overrides=overrides), tmp_path / "config.yaml")
    assert not ablate.is_trained(tmp_path, "unet", settings)
    (tmp_path / "unet").mkdir()
    assert ablate.is_trained(tmp_path, "unet", settings)
    with pytest.raises(WouldOverwrite, match=r"trained with another .*data.*seed"):
        ablate.is_trained(tmp_path, "unet", ablate.composed("train", [*overrides[:1], "seed=3", overrides[2]]))


def test_the_introduction_states_the_steps_that_are_taken(tmp_path):
    introduction = " ".join(composed(tmp_path).introduction.split())
    steps = {}
    for experiment in ("stage1", "stage2", "syncnet"):
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
            steps[experiment] = compose("train", overrides=[f"+experiment=ablation/{experiment}"]).trainer.max_steps
    assert (
        f"{steps['stage1']} steps of stage 1, {steps['stage2']} of stage 2, {steps['syncnet']} of SyncNet"
        in introduction
    )


def test_a_command_that_fails_ends_the_rest_and_names_its_log(tmp_path):
    with pytest.raises(StepFailed, match=r"no_such_command failed; .*broken\.log says why"):
        ablate.run_logged(["lipsync_lightning.no_such_command"], tmp_path, "broken")
    assert "No module named" in (tmp_path / "logs" / "broken.log").read_text()
