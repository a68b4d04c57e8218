from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from command_line import CommandLine
from lipsync_lightning.commands.export import pipeline_of_run
from lipsync_lightning.commands.resume import checkpoint_to_resume
from lipsync_lightning.commands.train import warn_if_target_differs
from lipsync_lightning.errors import BadConfig, WouldOverwrite, WrongWeights
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.train import main
from train_process import TrainProcess, small_shards, unet_arguments


@pytest.fixture
def used_run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for step in (90, 100):
        torch.save({"state_dict": {}}, run / "checkpoints" / f"step_{step:08d}.ckpt")
    return run


def test_last_is_the_checkpoint_of_the_highest_step_and_none_in_a_new_run(used_run: Path, tmp_path: Path):
    assert checkpoint_to_resume("last", used_run) == used_run / "checkpoints" / "step_00000100.ckpt"
    assert checkpoint_to_resume("last", tmp_path) is checkpoint_to_resume(None, tmp_path) is None


def test_a_broken_newest_checkpoint_falls_back_to_the_one_before_with_a_warning(used_run: Path):
    newest, before = (used_run / "checkpoints" / f"step_{step:08d}.ckpt" for step in (100, 90))
    newest.write_bytes(newest.read_bytes()[:-200])
    with pytest.warns(UserWarning, match=r"step_00000100\.ckpt is not a whole checkpoint"):
        assert checkpoint_to_resume("last", used_run) == before
    assert sorted(path.name for path in before.parent.iterdir()) == ["step_00000090.ckpt", "step_00000100.ckpt.broken"]
    before.write_bytes(b"")
    for _ in range(2):  # and not a new run the second time
        none_left = pytest.raises(WrongWeights, match=r"no checkpoint in .* can be read; start anew")
        with pytest.warns(UserWarning, match="is not a whole checkpoint"), none_left:
            checkpoint_to_resume("last", used_run)


def test_a_used_run_folder_is_not_written_into_again(used_run: Path):
    way_out = r"already holds a run \(step_00000100.ckpt\); continue it with ckpt_path=last"
    with pytest.raises(WouldOverwrite, match=way_out):
        checkpoint_to_resume(None, used_run)


def test_a_named_checkpoint_must_be_there(used_run: Path):
    named = used_run / "checkpoints" / "step_00000090.ckpt"
    assert checkpoint_to_resume(str(named), used_run) == named
    with pytest.raises(BadConfig, match=r"ckpt_path=nowhere\.ckpt is not a file"):
        checkpoint_to_resume("nowhere.ckpt", used_run)


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (["+experiment=stage9"], ["experiment/stage9", "stage2"]),
        (["+experiment=demo/syncnet", "data.batch_sise=3"], ["batch_sise"]),
        (["+experiment=demo/syncnet", "+data.batch_sise=3"], ["batch_sise"]),
        (
            ["+experiment=demo/syncnet", "callbacks=ema"],
            ["error: callbacks.syncnet_watch has settings, but none of the groups", "'callbacks=[syncnet,ema]'"],
        ),
        (["+experiment=demo/syncnet", "demo_dir=none"], ["error: no shards at none/shards", "out=none/shards"]),
        (["+experiment=demo/syncnet", "run_dir=run"], ["already holds a run"]),
        (["+experiment=demo/syncnet", "run_dir=run", "ckpt_path=nowhere.ckpt"], ["is not a file"]),
        (["+experiment=demo/syncnet", "ckpt_path=weights.pt"], ["holds weights, but no run", "init_from=weights.pt"]),
        (["+experiment=demo/stage1", "module.lora.rank=4"], ["module.lora stands beside weights that are there; name"]),
        (["+experiment=demo/stage1", "trainer.precision=bf16-true"], ["kept in float32; give bf16-mixed"]),
        (["+experiment=demo/stage1", "trainer.log_every_n_steps=0"], ["log_every_n_steps=0", "give 1 or more"]),
        (["+experiment=demo/stage1", "+profile=abc"], ["profile=abc: give the memory of one GPU"]),
        (["+experiment=demo/stage1", "+memory=x"], ["+memory=forecast says what a step needs"]),
        (
            ["+experiment=demo/stage1", "module.frozen_dtype=int8"],
            ["module.frozen_dtype=int8", "give float32 or bfloat16 or float16"],
        ),
    ],
    ids=[
        "experiment",
        "misspelt",
        "misspelt and added",
        "lost callback",
        "no shards",
        "used run",
        "no checkpoint",
        "no step",
        "lora beside nothing",
        "no half",
        "never logs",
        "no profile",
        "no memory",
        "no type",
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(command_line: CommandLine, used_run: Path, arguments, refused):
    torch.save({"weight": torch.zeros(1)}, used_run.parent / "weights.pt")
    told = command_line.refusal(main, *arguments)
    assert [part for part in refused if part not in told] == []


def test_a_start_from_weights_of_another_target_is_warned_of(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    there, here = ({"module": {"scheduler": {"prediction_type": kind}}} for kind in ("epsilon", "v_prediction"))
    OmegaConf.save(OmegaConf.create(there), tmp_path / "config.yaml")
    warn_if_target_differs(str(tmp_path), OmegaConf.create(there))
    warn_if_target_differs(str(tmp_path / "no run"), OmegaConf.create(here))
    warn_if_target_differs(str(tmp_path), OmegaConf.create({"module": {}}))
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"\(prediction_type epsilon there, v_prediction here\)"):
        warn_if_target_differs(str(tmp_path), OmegaConf.create(here))


@pytest.mark.slow
def test_lora_is_saved_alone_goes_on_to_the_bit_and_leaves_a_plain_network(tmp_path: Path):
    shards, first = small_shards(tmp_path), tmp_path / "first"

    def train(run: Path, steps: int, *more: str) -> None:
        given = unet_arguments(shards, run, f"trainer.max_steps={steps}", "checkpoint_every=2", *more)
        TrainProcess(given, tmp_path / f"{run.name} {steps}.txt").ends()

    lora = ("module.lora.rank=2", "module.frozen_dtype=bfloat16", "trainer.precision=bf16-mixed")
    train(first, 1)
    runs = tmp_path / "straight", tmp_path / "resumed"
    train(runs[0], 4, *lora, f"init_from={first}")
    train(runs[1], 2, *lora, f"init_from={first}")
    (first / "checkpoints").rename(tmp_path / "moved")  # what a run stands beside is its own
    train(runs[1], 4, *lora, f"init_from={first}", "ckpt_path=last")
    straight, resumed = (
        torch.load(run / "checkpoints" / "step_00000004.ckpt", weights_only=True)["state_dict"] for run in runs
    )
    assert all("lora_" in name for name in straight)
    assert all(torch.equal(resumed[name], weight) for name, weight in straight.items())
    assert any(weight.any() for name, weight in straight.items() if "lora_B" in name)
    saved = LipSyncUNet.from_pretrained(runs[1] / "unet", low_cpu_mem_usage=False).state_dict()
    options = {"num_inference_steps": 1, "guidance_scale": 1.0, "reference": "own_frames"}
    exported = pipeline_of_run(runs[1], **options).unet.state_dict()
    torch.testing.assert_close(dict(exported), dict(saved), rtol=0, atol=0)
    former = LipSyncUNet.from_pretrained(first / "unet", low_cpu_mem_usage=False).state_dict()
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"
    assert 0 < (saved[name] - former[name]).abs().max() < 0.1
