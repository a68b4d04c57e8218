import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from command_line import CommandLine
from lipsync_lightning.cli import build, one_sentence
from lipsync_lightning.composing import hydra_arguments, quoted
from lipsync_lightning.errors import BrokenShard
from lipsync_lightning.train import main as train_main


def test_our_own_error_is_found_behind_what_wraps_it():
    config = {"_target_": "lipsync_lightning.clip.ClipSpec.from_dict", "values": {"fps": 25}, "source": "the file"}
    with pytest.raises(InstantiationException) as caught:
        build(config)
    assert one_sentence(caught.value).startswith("the file: a clip needs the keys ['fps', 'mel_hz'")


def test_a_misspelt_key_is_named():
    with pytest.raises(InstantiationException) as caught:
        build({"_target_": "lipsync_lightning.clip.ClipSpec", "fsp": 25})
    message = one_sentence(caught.value)
    assert "ClipSpec" in message
    assert "fsp" in message
    assert "\n" not in message


def test_a_workers_traceback_is_left_out():
    told = (
        "Caught BrokenShard in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File ...\n"
    )
    error = BrokenShard(told + "lipsync_lightning.errors.BrokenShard: d/0: no mp4\nin it; run prepare\n")
    assert one_sentence(error) == "d/0: no mp4 in it; run prepare"


PATHS = ["runs/Gespräch 1 – ä.mp4", "a & b#1.mp4", "плёнка.mp4", "~/x;y.mp4", "take (1).mp4", "Müller, take [2].mp4"]
PATHS += ["a=b.mp4", r"\\server\share\a.mp4", "it's.mp4", '2" film.mp4', "'a' b.mp4", "$HOME {1}.mp4", " a.mp4 ", "a\\"]
PATHS += [
    "[a]",
    "{a: 1}",
    "a,b",
    "1",
    "007",
    "1e3",
    "true",
    "glob(*)",
    "range(1,3)",
    "-1",
    "%@!?*|<>^`.mp4",
    "a\nb.mp4",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["video", "out", "recipe.source", "+models.mine", "--run_dir"])
def test_paths_with_any_letters_reach_the_configuration_as_they_are(path: str, key: str):
    (argument,) = hydra_arguments([f"{key}={path}"])
    assert hydra_arguments([argument]) == [argument]  # as processes get it that a process starts
    (override,) = OverridesParser.create().parse_overrides([argument])
    assert override.value() == path


@pytest.mark.parametrize("name", ["null", "'a'", "${video}.mp4", "[a,b]", "a,b"])
def test_a_file_that_is_there_is_meant_whatever_else_its_name_could_mean(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    for key, flags in (("data.shards", []), ("video", []), ("video", ["-m"])):
        argument = hydra_arguments([*flags, f"{key}={name}"])[-1]
        (override,) = OverridesParser.create().parse_overrides([argument])
        config = OmegaConf.create({"video": override.value()})
        assert config.video == name


MEANT = [
    "init_from=null",
    "out=${name}_1",
    "ckpt_path=last",
    "data.shards=[a,b]",
    "data.shards={a: 0.7, b: 0.3}",
    "out=",
]
MEANT += ["video='a b, c.mp4'", 'video="a (1).mp4"', "~run", "shards=hf://datasets/me/faces"]


@pytest.mark.parametrize("argument", MEANT)
def test_what_a_path_can_be_besides_a_name_stays_what_it_is(argument: str):
    assert quoted(argument) == argument


def test_commas_of_paths_sweep_where_that_is_asked_for_and_others_always():
    assert hydra_arguments(["-m", "video=a.mp4,b.mp4", "seed=1,2"]) == ["-m", "video=a.mp4,b.mp4", "seed=1,2"]
    assert hydra_arguments(["-m", "video=a (1).mp4"]) == ["-m", 'video="a (1).mp4"']
    assert hydra_arguments(["video=a.mp4,b.mp4", "seed=1,2"]) == ['video="a.mp4,b.mp4"', "seed=1,2"]


@pytest.mark.parametrize("value", ["Gespräch", "a & b", "x;y"])
def test_other_values_may_have_any_letters(value: str):
    (override,) = OverridesParser.create().parse_overrides([quoted(f"name={value}")])
    assert override.value() == value


@pytest.mark.parametrize(
    "argument",
    ["a=1,2", "x=[1,2]", "y='ä'", "+experiment=demo/stage1", "runs/a b.mp4", "v=plain path.mp4", "-m", "~a.b"],
)
def test_what_hydra_understands_is_left_alone(argument: str):
    assert quoted(argument) == argument


MISTAKES = {
    "train": ("+experiment=demo/stage1", "trainer.precision=64-true"),
    "infer": ("model=there",),
    "evaluate": ("videos=there",),
    "export": ("run=there", "source=there"),
    "report": (),
    "latents": (),
    "synthesize": (),
}


@pytest.mark.parametrize("command", MISTAKES)
def test_help_and_mistakes_come_before_anything_large_is_imported(command: str, tmp_path: Path):
    looking = (
        f"import sys, atexit; sys.argv = ['x', *{{arguments}}]\n"
        f"atexit.register(lambda: print('large:', [n for n in ('torch', 'lightning', 'cv2') if n in sys.modules]))\n"
        f"from lipsync_lightning.{command} import main\nmain()"
    )
    for arguments, told in ((["--help"], "Commands: app, demo, evaluate"), (list(MISTAKES[command]), "error: ")):
        code = looking.format(arguments=arguments)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert told in done.stdout + done.stderr
        assert "large: []" in done.stdout
        assert done.returncode == (told == "error: ")


def test_arguments_as_wandb_s_agent_and_people_give_them():
    given = ["--module.optimizer.lr=0.1", "--cfg=job", "--multirun", "-m", "seed=1,2", "--config-name", "a&b"]
    assert hydra_arguments(given) == ["module.optimizer.lr=0.1", *given[1:]]


def test_a_run_s_folder_is_found_from_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    whole = str(tmp_path / "run")
    assert hydra_arguments(["--config-path", "run", "--config-dir=run"]) == [
        "--config-path",
        whole,
        f"--config-dir={whole}",
    ]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.batch_size=two", "data.batch_size=two: give a number, such as"),
        ("data.batch_size=null", "data.batch_size=None: give a number"),
        ("module.optimizer.lr=1e-4x", "module.optimizer.lr=1e-4x: give a number"),
        ("module.guidance_scale=nan", "module.guidance_scale=nan: give a number"),
        ("module.gradient_checkpointing=maybe", "module.gradient_checkpointing=maybe: give true or false"),
        ("seed=abc", "seed=abc: give a number"),
        ("seed=-5", "seed=-5: give a number from 0"),
        ("+colour=red", "+colour=red: there is no such key"),
        ("trainer.max_steps=0", "nothing would be trained"),
        ("trainer.limit_train_batches=0", "nothing would be trained"),
        ("trainer.accumulate_grad_batches=0", "nothing would be trained"),
        ("trainer.gradient_clip_val=-1", "give a number above 0"),
        ("data.shards=null", "data.shards=null: give a folder"),
        ("run_dir=null", "run_dir=null: give a folder"),
        ("run_dir=pyproject.toml/x", "Not a directory"),
    ],
)
def test_values_that_mean_nothing_are_one_sentence(command_line: CommandLine, setting: str, words: str):
    Path("pyproject.toml").touch()
    assert words in command_line.refusal(train_main, "+experiment=stage2", "data.shards=nowhere", setting)


def test_null_and_words_stay_where_lightning_or_a_yaml_takes_them(command_line: CommandLine):
    meant = [
        "trainer.max_epochs=null",
        "trainer.devices=auto",
        "+trainer.max_time=null",
        "trainer.val_check_interval=0.5",
    ]
    meant += ["module.losses.terms.trepa=null", "+memory=forecast", "checkpoint_every=7", "init_from=null"]
    meant += ["module.losses.terms.sync.weight=0.5", "~module.losses.terms.sync"]
    said = command_line.refusal(train_main, "+experiment=stage2", "data.shards=nowhere", *meant)
    assert "give a number" not in said
    assert "no such key" not in said


def test_a_checkpoint_is_chosen_of_a_run_that_is_named(command_line: CommandLine):
    said = command_line.refusal(train_main, "+experiment=syncnet", "data.shards=nowhere", "checkpoint=best")
    assert "checkpoint=best chooses of the run that init_from= names" in said
