"""Every experiment composes, names only what exists, and takes a training step at a size a test can afford."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from lightning import LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from lipsync_lightning.cli import build, one_sentence
from lipsync_lightning.clip import ClipBatch, ClipSpec
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.models.autoencoder import LinearAutoencoder, PatchMoments
from lipsync_lightning.models.released import SYNCNET_CONFIGS
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.videomae import VideoMAEFeatures
from lipsync_lightning.modules.unet_stage1 import UNetStage1Module

EXPERIMENTS_DIR = CONF_DIR / "experiment"
EXPERIMENTS = sorted(
    str(path.relative_to(EXPERIMENTS_DIR).with_suffix(""))
    for path in EXPERIMENTS_DIR.rglob("*.yaml")
    if "name" in OmegaConf.load(path)
)
FULL_SCALE = [name for name in EXPERIMENTS if not name.startswith("demo/")]
UNET_STAGES = [name for name in FULL_SCALE if name.startswith("stage")]
DEMO_STEPS = [
    name for name in EXPERIMENTS if name.startswith("demo/") and name != "demo/autoencoder"
]  # its fit takes no step
SIDE, FRAMES = 64, 4
HEARD = {"num_tokens": 6, "width": 16}
TINY_VIDEOMAE = {"image_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_width": 32}
RELEASED_TINY_VIDEOMAE = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 2,
    "tubelet_size": 2,
}
TINY_UNET = [
    "block_out_channels=[32,32,32,32]",
    "num_attention_heads=2",
    "layers_per_block=1",
    f"cross_attention_dim={HEARD['width']}",
]
TINY_SYNCNET = {
    "audio_encoder": {"in_channels": 1, "block_out_channels": [8, 8, 16], "downsample_factors": [2, 2, [20, 3]]},
    "visual_encoder": {
        "in_channels": 3 * FRAMES,
        "block_out_channels": [8, 8, 16],
        "downsample_factors": [2, 2, [8, 16]],
    },
}
TINY_LATENT_LIPS = {"in_channels": 4 * FRAMES, "block_out_channels": [8, 8, 16], "downsample_factors": [2, 2, 2]}
TINY_WAV2LIP_SYNCNET = {
    "audio_encoder": [{"in_channels": 1, "out_channels": 8, "stride": [80, 13]}],
    "visual_encoder": [{"in_channels": 3 * FRAMES, "out_channels": 8, "stride": [32, 64]}],
}


def composed(experiment: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return compose("train", overrides=[f"+experiment={experiment}", *overrides])


def targets(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping with a `_target_`, at any depth."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


def refusal(node: dict[str, Any]) -> str | None:
    """Why a constructor would not take exactly these keys, or None."""
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    signature = inspect.signature(get_object(node["_target_"]))
    try:
        (signature.bind_partial if node.get("_partial_") else signature.bind)(**given)
    except TypeError as error:
        return f"{node['_target_']}: {error}"
    return None


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_constructor_takes_exactly_the_keys_it_is_given(experiment):
    plain = OmegaConf.to_container(composed(experiment), resolve=True, throw_on_missing=True)
    found = list(targets(plain))
    assert len(found) > 5
    assert [reason for node in found if (reason := refusal(node))] == []


def test_a_misspelt_key_is_found():
    config = OmegaConf.to_container(composed("stage1", "+module.unet.layers_per_blok=3"), resolve=True)
    assert len([reason for node in targets(config) if (reason := refusal(node))]) == 1


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_is_named_after_its_file(experiment):
    assert composed(experiment).name == experiment


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_autoencoder_and_the_unet_fit_together(experiment):
    module = composed(experiment).module
    if "unet" in module:
        assert module.unet.in_channels == 3 * module.unet.out_channels + 1


@pytest.mark.parametrize(
    ("experiment", "batch_size", "resolution"),
    [
        ("syncnet", 256, 256),
        ("stage1", 24, 256),
        ("stage1_512", 8, 512),
        ("stage2", 4, 256),
        ("stage2_efficient", 4, 256),
        ("stage2_512", 4, 512),
    ],
)
def test_batches_clips_and_learning_rate_are_the_published_ones(experiment, batch_size, resolution):
    config = composed(experiment)
    assert config.data.batch_size == batch_size
    assert (config.clip.num_frames, config.clip.fps, config.clip.resolution) == (16, 25, resolution)
    assert config.module.optimizer._target_ == "torch.optim.AdamW"
    assert config.module.optimizer.lr == 1e-5
    assert config.trainer.gradient_clip_val == 1.0


@pytest.mark.parametrize("experiment", UNET_STAGES)
def test_the_diffusion_process_is_the_published_one(experiment):
    module = composed(experiment).module
    schedule = {key: value for key, value in module.scheduler.items() if key != "_target_"}
    assert schedule == {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": "epsilon",
    }
    assert module.mixed_noise_alpha == 1.0


@pytest.mark.parametrize(
    ("experiment", "trainable", "weights"),
    [
        ("stage1", [""], {"noise": 1.0}),
        ("stage2", ["motion_modules.", "attentions."], {"noise": 1.0, "sync": 0.05, "perceptual": 0.1, "trepa": 10.0}),
        (
            "stage2_512",
            ["motion_modules.", "attentions."],
            {"noise": 1.0, "sync": 0.05, "perceptual": 0.1, "trepa": 10.0},
        ),
        ("stage2_efficient", ["motion_modules.", "attn2."], {"noise": 1.0, "sync": 0.05, "perceptual": 0.1}),
    ],
)
def test_trained_groups_and_loss_weights_are_the_published_ones(experiment, trainable, weights):
    module = composed(experiment).module
    assert list(module.trainable) == trainable
    assert {name: term.weight for name, term in module.losses.terms.items() if term is not None} == weights


@pytest.mark.parametrize(
    ("experiment", "released"),
    [("syncnet", "16_pixel_attn"), ("syncnet_25px", "25_pixel"), ("syncnet_latent", "16_latent")],
)
def test_a_syncnet_is_the_released_one_of_its_kind(experiment, released):
    encoders = OmegaConf.to_container(composed(experiment).module.syncnet)
    assert isinstance(encoders, dict)
    assert encoders.pop("_target_").endswith(".StableSyncNet")
    assert encoders == SYNCNET_CONFIGS[released]


@pytest.mark.parametrize(
    ("experiment", "shown"),  # shown: channels, height and width of a frame, as the SyncNet gets it
    [
        *((name, (3, 128, 256)) for name in ("syncnet", "syncnet_25px", "syncnet_wav2lip")),
        *((f"demo/syncnet{kind}", (3, 32, 64)) for kind in ("", "_wav2lip", "_attention", "_25px", "_5px")),
        ("syncnet_latent", (4, 32, 32)),
        ("demo/syncnet_latent", (12, 16, 16)),
    ],
)
def test_a_syncnet_shrinks_the_clip_of_its_experiment_to_one_embedding(experiment, shown):
    config = composed(experiment)
    clip: ClipSpec = build(config.clip)
    channels, height, width = shown
    with torch.device("meta"):
        syncnet = build(config.module.syncnet)
        vision = syncnet.embed_frames(torch.empty(2, clip.num_frames * channels, height, width))
        audio = syncnet.embed_mel(torch.empty(2, 1, clip.num_mels, clip.mel_columns))
    assert vision.shape == audio.shape


@pytest.fixture
def stand_ins(tmp_path, monkeypatch) -> Path:
    """Tiny random networks in every file that full-scale experiments read."""
    monkeypatch.setenv("LIPSYNC_WEIGHTS", str(tmp_path))
    released = tmp_path / "latentsync-1.6"
    (released / "auxiliary").mkdir(parents=True)
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    ).save_pretrained(tmp_path / "sd-vae-ft-mse")
    videomae = VideoMAEFeatures(**TINY_VIDEOMAE, num_frames=FRAMES, tubelet_size=2)
    torch.save({"module": videomae.state_dict()}, released / "auxiliary" / "vit_g_hybrid_pt_1200e_ssv2_ft.pth")
    syncnet = {
        name: {**sizes, "attn_blocks": [0] * 3, "dropout": 0.0, "norm_num_groups": 4}
        for name, sizes in TINY_SYNCNET.items()
    }
    StableSyncNet(**syncnet).save_pretrained(tmp_path / "syncnet")
    return tmp_path


def tiny(experiment: str, weights: Path) -> DictConfig:
    """The experiment with everything that makes it large made small; what it is stays."""
    small = [
        f"clip.resolution={SIDE}",
        f"clip.num_frames={FRAMES}",
        "trainer=cpu",
        "trainer.max_steps=1",
        "logger=none",
        "data.batch_size=1",
    ]
    if experiment.startswith("syncnet"):
        return tiny_syncnet(experiment, small)
    if experiment == "wav2lip":
        small += ["module.generator.channels=[8,8,8]", "module.generator.speech_channels=8"]
        small += [
            f"module.generator.num_tokens={HEARD['num_tokens']}",
            f"module.generator.token_width={HEARD['width']}",
        ]
    else:
        small += [f"module.unet.{change}" for change in TINY_UNET] + ["module.unet.motion_num_attention_heads=2"]
    if not experiment.startswith("stage1"):
        small += [
            "models/features@module.losses.terms.perceptual.loss.metric=lpips_untrained",
            f"module.losses.terms.sync.loss.resolution={SIDE}",
        ]
        small += [f"module.losses.terms.sync.loss.syncnet.path={weights}/syncnet"]
    config = composed(experiment, *small)
    if OmegaConf.select(config, "module.losses.terms.trepa") is not None:
        OmegaConf.update(
            config, "module.losses.terms.trepa.loss.features.config", RELEASED_TINY_VIDEOMAE, force_add=True
        )
    return config


def tiny_syncnet(experiment: str, small: list[str]) -> DictConfig:
    config = composed(experiment, *small)
    if experiment == "syncnet_wav2lip":
        config.module.syncnet.update(TINY_WAV2LIP_SYNCNET)
        return config
    sizes = TINY_SYNCNET if experiment != "syncnet_latent" else {**TINY_SYNCNET, "visual_encoder": TINY_LATENT_LIPS}
    for name in sizes:
        config.module.syncnet[name].update({**sizes[name], "attn_blocks": [0, 1, 0]})
        OmegaConf.update(config, f"module.syncnet.{name}", {"norm_num_groups": 4, "attention_heads": 2}, force_add=True)
    return config


def batch(clip: ClipSpec) -> ClipBatch:
    frames = (2, clip.num_frames, 3, clip.resolution, clip.resolution)
    return ClipBatch(
        frames=torch.rand(frames) * 2 - 1,
        reference=torch.rand(frames) * 2 - 1,
        keep_mask=keep_mask(clip.resolution).expand(2, 1, -1, -1).clone(),
        audio=torch.randn(2, clip.num_frames, HEARD["num_tokens"], HEARD["width"]),
        mel=torch.randn(2, 1, clip.num_mels, clip.mel_columns),
        id=["one", "other"],
        first_frame=torch.zeros(2, dtype=torch.int64),
        seed=torch.arange(2),
    )


def as_encoded(given: ClipBatch, module: UNetStage1Module) -> dict[str, Any]:
    """Return what `LatentSamples` would give in place of a batch's pixels."""

    def posteriors(frames: Tensor) -> Tensor:
        return torch.stack(module.autoencoder.posterior(frames.flatten(0, 1)), dim=1).unflatten(0, frames.shape[:2])

    encoded = {
        "latents": posteriors(given["frames"]),
        "masked_latents": posteriors(given["frames"] * given["keep_mask"][:, None]),
        "reference_latents": posteriors(given["reference"]),
        "made_by": [module.autoencoder_fingerprint] * len(given["id"]),
    }
    return {key: given[key] for key in ("keep_mask", "audio", "id", "first_frame", "seed")} | encoded


def served(given: ClipBatch, module: Any, config: DictConfig) -> Any:
    """Return the batch as the experiment's own samples would give it."""
    return as_encoded(given, module) if config.data.samples._target_.endswith(".LatentSamples") else given


def take_a_step(config: DictConfig) -> Trainer:
    module: LightningModule = build(config.module)
    trainer: Trainer = build(
        config.trainer,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        val_check_interval=1.0,
        check_val_every_n_epoch=1,
    )
    data = DataLoader([served(batch(build(config.clip)), module, config)], batch_size=None)  # pyright: ignore[reportArgumentType]
    trainer.fit(module, data, data)
    return trainer


@pytest.mark.parametrize("experiment", FULL_SCALE)
def test_a_full_scale_experiment_takes_a_training_step(experiment, stand_ins):
    trainer = take_a_step(tiny(experiment, stand_ins))
    assert trainer.global_step == 1
    assert all(torch.isfinite(value) for name, value in trainer.callback_metrics.items() if "loss" in name)
    assert {"train/loss", "val/loss"} <= set(trainer.callback_metrics)


@pytest.mark.parametrize("experiment", DEMO_STEPS)
def test_a_demo_experiment_takes_a_training_step_on_what_the_earlier_ones_left(experiment, tmp_path):
    config = composed(experiment, f"demo_dir={tmp_path}", "trainer.max_steps=1", "data.batch_size=1")
    fitted_to_noise(LinearAutoencoder(patch=4, latent_channels=12)).save_pretrained(
        tmp_path / "autoencoder" / "autoencoder"
    )
    if OmegaConf.select(config, "module.losses.terms.sync") is not None:
        build(composed("demo/syncnet").module.syncnet).save_pretrained(tmp_path / "syncnet" / "syncnet")
    clip = build(config.clip)
    demo_batch = batch(clip)
    assert torch.isfinite(loss_of_one_step(config, demo_batch))


def loss_of_one_step(config: DictConfig, given: ClipBatch) -> Tensor:
    clip = build(config.clip)
    if "audio_encoder" in config.data.samples:
        tokens = build(config.audio_encoder).tokens(
            torch.randn(clip.num_samples(clip.num_frames)), clip.num_frames, float(clip.fps)
        )
        given["audio"] = tokens.expand(2, -1, -1, -1).clone()
    trainer = Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    module: LightningModule = build(config.module)
    trainer.fit(module, DataLoader([served(given, module, config)], batch_size=None))  # pyright: ignore[reportArgumentType]
    return trainer.callback_metrics["train/loss"]


def fitted_to_noise(autoencoder: LinearAutoencoder) -> LinearAutoencoder:
    moments = PatchMoments(patch=4)
    moments.update(torch.rand(4, 3, 64, 64) * 2 - 1)
    autoencoder.fit_from_moments(moments.count, moments.total, moments.outer)
    return autoencoder


@pytest.mark.parametrize(
    ("experiment", "part", "command"),
    [
        ("stage1", "module", "python -m lipsync_lightning.export fetch=latentsync-1.6"),
        ("stage1", "audio_encoder", "python -m lipsync_lightning.export fetch=latentsync-1.6"),
        ("demo/stage1", "module", "python -m lipsync_lightning.train +experiment=demo/autoencoder demo_dir="),
    ],
)
def test_missing_weights_name_the_command_that_gets_them(experiment, part, command, tmp_path, monkeypatch):
    monkeypatch.setenv("LIPSYNC_WEIGHTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="no ") as caught:
        build(composed(experiment)[part])
    assert command in one_sentence(caught.value)


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("syncnet", "python -m lipsync_lightning.train +experiment=syncnet"),
        (
            "latentsync-1.6/auxiliary/vit_g_hybrid_pt_1200e_ssv2_ft.pth",
            "python -m lipsync_lightning.export fetch=latentsync-1.6 needs=training",
        ),
    ],
)
def test_a_judge_that_is_missing_names_the_command_that_makes_it(missing, command, stand_ins):
    Path(stand_ins / missing).rename(stand_ins / "elsewhere")
    with pytest.raises(Exception, match="no ") as caught:
        build(tiny("stage2", stand_ins).module)
    assert command in one_sentence(caught.value)
