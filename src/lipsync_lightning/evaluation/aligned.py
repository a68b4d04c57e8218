"""A U-Net judged on aligned faces: no video is written, so that many runs can be compared in minutes."""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor

from lipsync_lightning.diffusion import inpaint
from lipsync_lightning.errors import ClipTooShort
from lipsync_lightning.evaluation.suite import CONDITIONS, Judge, Row, TestVideo
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline


def judged_on_aligned_faces(
    pipeline: LipSyncPipeline, judge: Judge, tests: Sequence[TestVideo], compared_region: str, seed: int
) -> list[Row]:
    """Return the scores of every test video under every condition, and of the untouched videos as `system` "real video".

    Beside what `Judge` says, with their own speech: `temporal_error`, see there.

    Args: compared_region: one of `media.masks.REGIONS`, inside which generated pixels are compared with real ones.
    """
    rows = []
    for test in tests:
        real = judge.aligned(test.path, test.path)
        real = real[: whole_windows(len(real), pipeline.clip.num_frames, test.path)]
        who = {"person": test.path.stem}
        rows.append(
            {"system": "real video", "condition": "own speech", **who, **judge.following(real, test.own, test.own)}
        )
        for condition, speech in CONDITIONS.items():
            said = getattr(test, speech)
            made = spoken(pipeline, real, read_audio(said.sound, pipeline.clip.sample_rate_hz), seed)
            row = {"system": "generated", "condition": condition, **judge.following(made, said, test.own)}
            if said is test.own:
                row |= judge.closeness(made, real, compared_region) | {
                    "temporal_error": temporal_error(made, real, compared_region)
                }
            rows.append({**who, "speech": said.name, **row})
    return rows


def whole_windows(num_frames: int, window: int, source: object) -> int:
    """Return how many frames fill whole windows. Raises: ClipTooShort, if they do not fill two, of which one shows the other its person."""
    if num_frames < 2 * window:
        raise ClipTooShort(f"{source} has {num_frames} frames, {2 * window} are needed to judge on; leave it out")
    return num_frames // window * window


def spoken(pipeline: LipSyncPipeline, real: np.ndarray, waveform: np.ndarray, seed: int) -> np.ndarray:
    """Return aligned faces that say the sound, (T, R, R, 3) uint8.

    The reference of each window is the window before, of the first one the second: never the frames themselves, as in training.

    Args:
        real: (T, R, R, 3) uint8, T whole windows.
        waveform: (N,), at the pipeline's sample rate.
    """
    clip, device = pipeline.clip, pipeline.unet.device
    tokens = pipeline.audio_encoder.tokens(torch.from_numpy(waveform), len(real), fps=float(clip.fps))
    frames = (
        rearrange(torch.from_numpy(real), "(b t) h w c -> b t c h w", t=clip.num_frames).float().to(device) / 127.5 - 1
    )
    side = clip.resolution // pipeline.autoencoder.downscale
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((1, 1, pipeline.autoencoder.latent_channels, side, side), generator=generator)
    mask = rearrange(keep_mask(clip.resolution, pipeline.config["mask"]), "h w -> 1 1 h w")
    made = inpaint(
        pipeline.unet,
        pipeline.autoencoder,
        pipeline.scheduler,
        frames=frames,
        reference=torch.cat([frames[1:2], frames[:-1]]),
        audio=rearrange(tokens, "(b t) a d -> b t a d", t=clip.num_frames).to(device),
        keep_mask=mask.expand(len(frames), -1, -1, -1).to(device),
        noise=repeat(noise, "1 1 c h w -> b t c h w", b=len(frames), t=clip.num_frames).to(device),
        generators=[torch.Generator(device).manual_seed(seed) for _ in frames],
        num_inference_steps=pipeline.config["num_inference_steps"],
        guidance_scale=pipeline.config["guidance_scale"],
    )
    return rearrange(_to_bytes(made), "b t c h w -> (b t) h w c").cpu().numpy()


def temporal_error(made: np.ndarray, real: np.ndarray, region: str) -> float:
    """Return by how much the change from frame to frame differs from the real one, in grey levels of a region.

    A still picture, a flickering one and one that moves at the wrong time all differ; a constant error of colour does not.

    Args: made, real: (T, R, R, 3) uint8.
    """
    hole = keep_mask(made.shape[1], region).numpy() == 0
    changes = [np.diff(faces[:, hole].astype(np.float64), axis=0) for faces in (made, real)]
    return float(np.abs(changes[0] - changes[1]).mean())


def _to_bytes(frames: Tensor) -> Tensor:
    return (frames * 127.5 + 127.5).round().clamp(0, 255).byte()
