"""Every experiment composes, names only what exists, and takes a training step at a size a test can afford."""

import inspect
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from lightning import LightningModule
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from lipsync_lightning.cli import build, one_sentence
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.models.autoencoder import PatchMoments, RefinedAutoencoder
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.videomae import VideoMAEFeatures

FILES = sorted((CONF_DIR / "experiment").rglob("*.yaml"))
NAMES = [str(path.relative_to(CONF_DIR / "experiment").with_suffix("")) for path in FILES]
EXPERIMENTS = [name for name in NAMES if not name.endswith("common")]
FULL_SCALE = [name for name in EXPERIMENTS if not name.startswith("demo/")]
DEMOS = [name for name in EXPERIMENTS if name.startswith("demo/") and name != "demo/autoencoder"]  # its fit has no step
SIDE, FRAMES = 64, 4
CODERS = (("down", "Encoder"), ("up", "Decoder"))
HEARD = {"num_tokens": 6, "width": 16}
TINY_VIDEOMAE = {"image_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_width": 32}
RELEASED_TINY_VIDEOMAE = {
    **{"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2, "tubelet_size": 2}
}
TINY_UNET = {
    **{"block_out_channels": "[32,32,32,32]", "num_attention_heads": 2, "layers_per_block": 1},
    **{"cross_attention_dim": HEARD["width"], "motion_num_attention_heads": 2},
}
TINY_SYNCNET = {
    "audio_encoder": {"in_channels": 1, "block_out_channels": [8, 8, 16], "downsample_factors": [2, 2, [20, 3]]},
    "visual_encoder": {
        **{"in_channels": 3 * FRAMES, "block_out_channels": [8, 8, 16], "downsample_factors": [2, 2, [8, 16]]}
    },
}
TINY_LATENT_LIPS = {"in_channels": 4 * FRAMES, "block_out_channels": [8, 8, 16], "downsample_factors": [2, 2, 2]}
TINY_WAV2LIP_SYNCNET = {
    "audio_encoder": [{"in_channels": 1, "out_channels": 8, "stride": [80, 13]}],
    "visual_encoder": [{"in_channels": 3 * FRAMES, "out_channels": 8, "stride": [32, 64]}],
}


@cache
def _composed(experiment: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return compose("train", overrides=[f"+experiment={experiment}", *overrides])


def composed(experiment: str, *overrides: str) -> DictConfig:
    return deepcopy(_composed(experiment, *overrides))


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
def test_an_experiment_is_named_after_its_file_and_gives_constructors_exactly_their_keys(experiment):
    config = composed(experiment)
    assert config.name == experiment
    found = list(targets(OmegaConf.to_container(config, resolve=True, throw_on_missing=True)))
    assert len(found) > 5
    assert [reason for node in found if (reason := refusal(node))] == []
    if "unet" in config.module:  # which fits its autoencoder
        assert config.module.unet.in_channels == 3 * config.module.unet.out_channels + 1


@pytest.mark.parametrize(
    ("experiment", "batch_size", "resolution"),
    [
        *(("syncnet", 256, 256), ("stage1", 24, 256), ("stage1_512", 8, 512)),
        *(("stage2", 4, 256), ("stage2_efficient", 4, 256), ("stage2_512", 4, 512)),
    ],
)
def test_batches_clips_and_learning_rate_are_the_published_ones(experiment, batch_size, resolution):
    config = composed(experiment)
    assert config.data.batch_size == batch_size
    assert (config.clip.num_frames, config.clip.fps, config.clip.resolution) == (16, 25, resolution)
    assert config.module.optimizer._target_ == "lipsync_lightning.modules.hooks.FusedAdamW"
    assert config.module.optimizer.lr == 1e-5
    assert config.trainer.gradient_clip_val == 1.0


@pytest.mark.parametrize("experiment", [name for name in FULL_SCALE if name.startswith("stage")])
def test_the_diffusion_process_is_the_published_one(experiment):
    module = composed(experiment).module
    schedule = {key: value for key, value in module.scheduler.items() if key != "_target_"}
    assert schedule == {
        **{"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
        **{"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "epsilon"},
    }
    assert module.mixed_noise_alpha == 1.0


def test_sync_looks_where_noise_that_is_wrong_by_a_tenth_leaves_an_estimate_more_picture_than_noise():
    module = composed("stage2", "+losses@module.losses.terms.sync_latent=sync_latent").module
    alpha_bar = build(module.scheduler).alphas_cumprod
    legible = (0.1 * (1 - alpha_bar) / alpha_bar <= 1).nonzero().flatten().tolist()
    for term in (module.losses.terms.sync, module.losses.terms.sync_latent):
        assert list(term.timesteps) == [legible[0], legible[-1]]


STAGE2_LOSSES = {"noise": 1.0, "sync": 0.05, "perceptual": 0.1}


@pytest.mark.parametrize(
    ("experiment", "trainable", "weights"),
    [
        ("stage1", [""], {"noise": 1.0}),
        ("stage2", ["motion_modules.", "attentions."], STAGE2_LOSSES | {"trepa": 10.0}),
        ("stage2_512", ["motion_modules.", "attentions."], STAGE2_LOSSES | {"trepa": 10.0}),
        ("stage2_efficient", ["motion_modules.", "attn2."], STAGE2_LOSSES),
    ],
)
def test_trained_groups_and_loss_weights_are_the_published_ones(experiment, trainable, weights):
    module = composed(experiment).module
    assert list(module.trainable) == trainable
    assert {name: term.weight for name, term in module.losses.terms.items() if term is not None} == weights


@pytest.mark.parametrize(
    ("experiment", "shown"),  # shown: channels, height and width of a frame, as the SyncNet gets it
    [
        *((name, (3, 128, 256)) for name in ("syncnet", "syncnet_25px", "syncnet_wav2lip")),
        *((f"demo/syncnet{kind}", (3, 32, 64)) for kind in ("", "_wav2lip")),
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
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny random networks in every file that full-scale experiments read."""
    monkeypatch.setenv("LIPSYNC_WEIGHTS", str(tmp_path))
    auxiliary = tmp_path / "latentsync-1.6" / "auxiliary"
    auxiliary.mkdir(parents=True)
    blocks: dict[str, Any] = {f"{way}_block_types": (f"{way.title()}{kind}Block2D",) * 4 for way, kind in CODERS}
    AutoencoderKL(**blocks, block_out_channels=(8,) * 4, norm_num_groups=4).save_pretrained(tmp_path / "sd-vae-ft-mse")
    videomae = VideoMAEFeatures(**TINY_VIDEOMAE, num_frames=FRAMES, tubelet_size=2)
    torch.save({"module": videomae.state_dict()}, auxiliary / "vit_g_hybrid_pt_1200e_ssv2_ft.pth")
    common = {"attn_blocks": [0] * 3, "dropout": 0.0, "norm_num_groups": 4}
    StableSyncNet(**{name: sizes | common for name, sizes in TINY_SYNCNET.items()}).save_pretrained(
        tmp_path / "syncnet"
    )
    return tmp_path


def tiny(experiment: str, weights: Path) -> DictConfig:
    """The experiment with everything that makes it large made small; what it is stays."""
    small = [f"clip.resolution={SIDE}", f"clip.num_frames={FRAMES}", "trainer=cpu"]
    if experiment == "wav2lip":
        small += ["module.generator.channels=[8,8,8]", "module.generator.speech_channels=8"]
    elif experiment.startswith("stage"):
        small += [f"module.unet.{key}={value}" for key, value in TINY_UNET.items()]
    if experiment.startswith(("stage2", "wav2lip")):
        sync = "module.losses.terms.sync.loss"
        small += [f"{sync}.resolution={SIDE}", f"{sync}.syncnet.path={weights}/syncnet"]
    if experiment.startswith(("stage2", "wav2lip", "vae_decoder")):
        small += ["models/features@module.losses.terms.perceptual.loss.metric=lpips_untrained"]
    config = composed(experiment, *small)
    if OmegaConf.select(config, "module.losses.terms.trepa") is not None:
        released = "module.losses.terms.trepa.loss.features.config"
        OmegaConf.update(config, released, RELEASED_TINY_VIDEOMAE, force_add=True)
    if experiment == "syncnet_wav2lip":
        config.module.syncnet.update(TINY_WAV2LIP_SYNCNET)
    elif experiment.startswith("syncnet"):
        lips = TINY_LATENT_LIPS if experiment == "syncnet_latent" else TINY_SYNCNET["visual_encoder"]
        common = {"attn_blocks": [0, 1, 0], "norm_num_groups": 4, "attention_heads": 2}
        for name, sizes in (TINY_SYNCNET | {"visual_encoder": lips}).items():
            OmegaConf.update(config, f"module.syncnet.{name}", sizes | common, force_add=True)
    return config


def batch_for(config: DictConfig, module: Any) -> dict[str, Any]:
    """Return a batch of noise as the experiment's own samples would give it."""
    clip: ClipSpec = build(config.clip)
    frames, reference = torch.rand(2, 2, clip.num_frames, 3, clip.resolution, clip.resolution) * 2 - 1
    batch = {"id": ["one", "other"], "seed": torch.arange(2), "first_frame": torch.zeros(2, dtype=torch.int64)}
    batch |= {"mel": torch.randn(2, 1, clip.num_mels, clip.mel_columns), "frames": frames, "reference": reference}
    if config.audio_encoder._target_.endswith("LogMelAudioEncoder"):
        sound = torch.randn(clip.num_samples(clip.num_frames))
        tokens = build(config.audio_encoder).tokens(sound, clip.num_frames, float(clip.fps))
    else:
        tokens = torch.randn(clip.num_frames, HEARD["num_tokens"], HEARD["width"])
    batch["audio"] = tokens.expand(2, -1, -1, -1).clone()
    batch["keep_mask"] = keep_mask(clip.resolution).expand(2, 1, -1, -1).clone()
    if not config.data.samples._target_.endswith(".LatentSamples"):
        return batch

    def posteriors(video: Tensor) -> Tensor:
        return torch.stack(module.autoencoder.posterior(video.flatten(0, 1)), dim=1).unflatten(0, video.shape[:2])

    masked = frames * batch["keep_mask"][:, None]
    batch |= {"latents": posteriors(frames), "masked_latents": posteriors(masked)}
    batch |= {"reference_latents": posteriors(reference), "made_by": [module.autoencoder_fingerprint] * 2}
    return {key: values for key, values in batch.items() if key not in ("frames", "reference", "mel")}


def take_a_step(config: DictConfig) -> None:
    module: LightningModule = build(config.module)
    limits = {"max_steps": 1, "val_check_interval": 1.0, "check_val_every_n_epoch": 1, "enable_checkpointing": False}
    trainer = build(config.trainer, logger=False, enable_progress_bar=False, **limits)
    data: Any = DataLoader([batch_for(config, module)], batch_size=None)  # pyright: ignore[reportArgumentType]
    trainer.fit(module, data, data)
    losses = {name: value for name, value in trainer.callback_metrics.items() if "loss" in name}
    assert trainer.global_step == 1
    assert {"train/loss", "val/loss"} <= set(losses)
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("experiment", FULL_SCALE)
def test_a_full_scale_experiment_takes_a_training_step(experiment, stand_ins):
    take_a_step(tiny(experiment, stand_ins))


@pytest.mark.parametrize("experiment", DEMOS)
def test_a_demo_experiment_takes_a_training_step_on_what_the_earlier_ones_left(experiment, tmp_path):
    moments = PatchMoments(patch=4)
    autoencoder = RefinedAutoencoder(patch=4, latent_channels=12, width=8, num_blocks=1)
    moments.update(torch.rand(4, 3, 64, 64) * 2 - 1)
    autoencoder.fit_from_moments(moments.count, moments.total, moments.outer)
    for run in ("autoencoder", "decoder"):
        autoencoder.save_pretrained(tmp_path / run / "autoencoder")
    build(composed("demo/syncnet").module.syncnet).save_pretrained(tmp_path / "syncnet" / "syncnet")
    config = composed(experiment)
    config.demo_dir = str(tmp_path)
    take_a_step(config)


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
