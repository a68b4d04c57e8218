"""Full size fits: what each published experiment needs of a GPU's memory, counted on fake tensors, has a ceiling."""

from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException

from lipsync_lightning.cli import one_sentence
from lipsync_lightning.commands import forecast
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.files import CONF_DIR

CEILINGS_GIB = {
    **{("syncnet", 256): 24, ("stage1", 24): 40, ("stage1_512", 8): 48, ("stage1_latents", 24): 40},
    **{("stage2", 4): 26, ("stage2_512", 1): 24, ("stage2_efficient", 1): 12, ("vae_decoder", 16): 22},
}


THIN = "+data.samples.every_nth_frame=4"


def composed(*overrides: str) -> Any:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return compose("train", overrides=list(overrides))


@pytest.mark.parametrize(("experiment", "batch_size"), CEILINGS_GIB)
def test_a_training_step_of_full_size_fits_and_waits_for_no_device(experiment: str, batch_size: int):
    row = forecast.count(composed(f"+experiment={experiment}", f"data.batch_size={batch_size}"))
    assert row["total_gib"] <= CEILINGS_GIB[experiment, batch_size]
    assert row["peak_gib"] > 1
    assert row["tflop"] > 10
    assert row["host_waits"] == 0


def test_frames_that_are_not_shown_need_nothing():
    whole, thin = (forecast.count(composed("+experiment=stage1", *own)) for own in ([], [THIN]))
    assert thin["tflop"] == pytest.approx(whole["tflop"] / 4, rel=0.01)


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that needs 10 GiB, 4 less with an 8-bit optimizer, 6 less with LoRA, and 2 for each window."""

    def count(config: Any) -> dict[str, Any]:
        saved = 6 if config.module.lora.rank else 4 if "8bit" in config.module.optimizer._target_ else 0
        total = 10 - saved + 2 * config.data.batch_size
        about = {"batch_size": config.data.batch_size, "resolution": 256, "peak_gib": 1.0, "parts_gib": {}}
        return about | {"total_gib": total}

    monkeypatch.setattr(forecast, "count", count)


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize(
    ("profile", "batch_size", "accumulated", "how"),
    [
        ("80gb", 24, 1, "as it is"),
        ("48gb", 12, 2, "as it is"),
        ("24", 6, 4, "as it is"),
        ("10gb", 1, 24, "8-bit"),
        ("8gb", 1, 24, "LoRA"),
    ],
)
def test_a_profile_takes_the_most_windows_that_fit_and_keeps_those_of_a_step(profile, batch_size, accumulated, how):
    config = composed("+experiment=stage1")
    assert how in forecast.fit_to(config, profile)
    assert (config.data.batch_size, config.trainer.accumulate_grad_batches) == (batch_size, accumulated)


@pytest.mark.usefixtures("linear")
def test_a_gpu_that_is_too_small_is_told_before_anything_is_built(monkeypatch: pytest.MonkeyPatch):
    config = composed("+experiment=stage1")
    monkeypatch.setattr(forecast.torch.cuda, "is_available", lambda: True)
    for gib, fits in ((80, True), (48, False)):
        properties = SimpleNamespace(total_memory=gib * forecast.GIB)
        monkeypatch.setattr(forecast.torch.cuda, "get_device_properties", lambda _, found=properties: found)
        if fits:
            assert "a step of 24 windows of 256 px needs 58.0 GiB" in forecast.require_fitting(config)
        else:
            with pytest.raises(BadConfig, match=r"this one has 48.0 GiB: give \+profile=48gb"):
                forecast.require_fitting(config)


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize(("profile", "told"), [("a lot", "give the memory of one GPU"), ("4gb", "too small")])
def test_a_profile_that_is_no_size_or_too_small_is_refused(profile, told):
    with pytest.raises(BadConfig, match=told):
        forecast.fit_to(composed("+experiment=stage1"), profile)


def test_a_fit_without_gradients_and_networks_whose_size_nobody_knows_are_told_in_a_sentence(tmp_path):
    with pytest.raises(BadConfig, match="learns by no gradient"):
        forecast.count(composed("+experiment=demo/autoencoder"))
    with pytest.raises(InstantiationException) as error:
        forecast.count(composed("+experiment=demo/stage1", f"demo_dir={tmp_path}"))
    assert "no RefinedAutoencoder at" in one_sentence(error.value)
    with pytest.raises(BadConfig, match="leave them out with trainer=fsdp"):
        forecast.count(composed("+experiment=stage2", "trainer=fsdp"))


def test_what_is_offloaded_takes_no_memory_of_the_gpu():
    tiny = ["clip.resolution=64", "clip.num_frames=4", "data.batch_size=1", "module.gradient_checkpointing=false"]
    tiny += ["module.unet.block_out_channels=[32,32,32,32]", "module.unet.num_attention_heads=4"]
    kept, offloaded = (
        forecast.count(composed("+experiment=stage1_latents", *tiny, f"module.offload_activations={offload}"))[
            "peak_gib"
        ]
        for offload in ("false", "true")
    )
    assert offloaded < 0.8 * kept
