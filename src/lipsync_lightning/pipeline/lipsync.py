"""Video and speech to video: the face of the video says the speech."""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, BadMedia, MissingWeights, NoFace, WouldOverwrite, WrongWeights
from lipsync_lightning.inpainting import Inpainter
from lipsync_lightning.media.alignment import FacePoints, align, paste_back
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.media.frames import to_float, to_uint8
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.mux import VideoWriter
from lipsync_lightning.media.video import probe, read_frames
from lipsync_lightning.models.audio_encoder import LogMelAudioEncoder, WhisperAudioEncoder
from lipsync_lightning.models.autoencoder import LinearAutoencoder, StableDiffusionAutoencoder
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.pipeline.reference import REFERENCES, Reference
from lipsync_lightning.pipeline.windows import PlacedFrame, placed_frames, windows


@dataclass(frozen=True)
class LipSyncResult:
    """What was written."""

    path: Path
    num_frames: int
    num_synced: int  # frames with a face; the others were passed through
    sound_seconds: float


@dataclass(frozen=True)
class Sampling:
    """How a clip is sampled."""

    noise: Tensor  # (1, 1, C, h, w): every frame of every window starts from it, as published
    num_inference_steps: int
    guidance_scale: float
    generator: torch.Generator | None = None  # of an autoencoder that draws its latents; None: torch's global one


class LipSyncPipeline(DiffusionPipeline):
    """Streams a video through the U-Net in windows of `clip.num_frames`; memory does not grow with its length.

    `LipSyncPipeline.from_pretrained(folder)` loads an export, `save_pretrained(folder)` writes one.
    """

    def __init__(
        self,
        unet: LipSyncUNet,
        autoencoder: StableDiffusionAutoencoder | LinearAutoencoder,
        audio_encoder: WhisperAudioEncoder | LogMelAudioEncoder,
        scheduler: DDIMScheduler,
        clip: dict[str, int] | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 1.5,
        reference: str = "own_frames",
        mask: str = "released",
    ) -> None:
        """Args:
        clip: a `ClipSpec` as a dict, so that it is stored in `model_index.json`. Not optional: it has a default only
            because diffusers takes every argument without one for a network.
        num_inference_steps, guidance_scale: what a call uses unless told otherwise.
        reference: name of one of `pipeline.reference.REFERENCES`.
        mask: what is generated, one of `media.masks.REGIONS`: the one the U-Net was trained with.
        Raises:
            BadConfig: there is no such reference or mask, or a number means nothing.
            WrongWeights: the U-Net's channels do not fit the autoencoder's.
            ClipMismatch: `clip` is no ClipSpec.
        """
        super().__init__()
        self.register_modules(unet=unet, autoencoder=autoencoder, audio_encoder=audio_encoder, scheduler=scheduler)
        self.register_to_config(
            clip=clip,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            reference=reference,
            mask=mask,
        )
        if not (isinstance(num_inference_steps, int) and num_inference_steps >= 1):
            raise BadConfig(f"num_inference_steps={num_inference_steps!r} must be a whole number, 1 or more")
        if not (isinstance(guidance_scale, int | float) and guidance_scale >= 0):
            raise BadConfig(f"guidance_scale={guidance_scale!r} must be a number, 0 or more")
        if reference not in REFERENCES:
            raise BadConfig(f"reference={reference!r} is none of {sorted(REFERENCES)}; choose one of them")
        self.clip = ClipSpec.from_dict(clip or {}, "the export's model_index.json")
        keep_mask(self.clip.resolution, mask)
        expected = 3 * autoencoder.latent_channels + 1
        if unet.config["in_channels"] != expected:
            raise WrongWeights(
                f"the U-Net takes {unet.config['in_channels']} channels, this autoencoder makes {expected}; export both from one run"
            )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **options: Any) -> Self:
        """Return the pipeline of an export; options as in diffusers, which would warn on every load where `accelerate` is not installed."""
        return super().from_pretrained(pretrained_model_name_or_path, **{"low_cpu_mem_usage": False, **options})

    @torch.no_grad()
    def __call__(
        self,
        *,
        video: Path | str,
        audio: Path | str,
        out: Path | str,
        faces: FacePoints,
        seed: int = 0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> LipSyncResult:
        """Write `video`, saying `audio`, to `out` (mp4), and return what was written.

        The result has the video's size, frame rate and frame count, and all of the sound, its samples untouched.
        Frames without a face pass through. Where the sound ends early the mouth speaks silence.
        Raises: BadMedia, MissingAudio for the inputs; NoFace, if no frame has one; WouldOverwrite, if `out` is an input or a folder;
        BadConfig, if there are no steps.
        """
        refuse_to_overwrite_inputs(Path(out), [Path(video), Path(audio)])
        steps = self.config["num_inference_steps"] if num_inference_steps is None else num_inference_steps
        if steps < 1:
            raise BadConfig(f"num_inference_steps={steps}; give at least 1, or null for the export's own")
        info = probe(video)
        waveform = read_audio(audio, self.clip.sample_rate_hz)
        sound_seconds = len(waveform) / self.clip.sample_rate_hz
        warn_of_other_length(info.duration_s, sound_seconds)
        fps = float(info.fps)
        # One window more than the container promises; the stream of frames decides where to stop.
        at_most = ceil(info.duration_s * fps) + self.clip.num_frames
        heard = with_silence(torch.from_numpy(waveform), info.duration_s * self.clip.sample_rate_hz)
        tokens = self.audio_encoder.token_windows(heard, at_most, fps, self.clip.num_frames)
        placed = placed_frames(read_frames(video, fps=fps), faces.for_video(Path(video)), self.clip.resolution)
        scale = self.config["guidance_scale"] if guidance_scale is None else guidance_scale
        sampling = Sampling(
            self._one_frame_of_noise(seed), steps, scale, torch.Generator(self.unet.device).manual_seed(seed)
        )
        reference = REFERENCES[self.config["reference"]]()
        num_frames = num_synced = 0
        bar = tqdm(total=at_most - self.clip.num_frames, desc=Path(out).name, unit="frame")
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        with bar, VideoWriter(out, width=info.width, height=info.height, fps=fps, sound=audio) as writer:
            for window in windows(placed, self.clip.num_frames):
                audio_TAD = next(tokens, None)
                if audio_TAD is None:
                    raise BadMedia(
                        f"{video} has more frames than the {info.duration_s:.2f} s it states; write it anew with any video tool"
                    )
                for frame in self._speak(window, audio_TAD, reference, sampling):
                    writer.write(frame)
                num_frames += len(window)
                num_synced += sum(placed.matrix is not None for placed in window)
                bar.update(len(window))
            if num_synced == 0:
                raise NoFace(
                    f"{video}: no face on any of {num_frames} frames, nothing was written; give a video that shows a face"
                )
        return LipSyncResult(Path(out), num_frames, num_synced, sound_seconds)

    @torch.no_grad()
    def generate(self, frames: Tensor, reference: Tensor, audio: Tensor, sampling: Sampling) -> Tensor:
        """Return aligned faces that say the audio; what the mask keeps is the input's.

        Args:
            frames: (T, 3, H, W) in [-1, 1], aligned faces.
            reference: like `frames`, the same person unmasked.
            audio: (T, A, D) tokens.
        Returns: (T, 3, H, W) in [-1, 1].
        """
        keep_B1HW = rearrange(keep_mask(self.clip.resolution, self.config["mask"]), "h w -> 1 1 h w").to(frames)
        inpaint = Inpainter(self.unet, self.autoencoder, self.scheduler)
        faces_BTCHW = inpaint(
            frames=rearrange(frames, "t c h w -> 1 t c h w"),
            reference=rearrange(reference, "t c h w -> 1 t c h w"),
            audio=rearrange(audio, "t a d -> 1 t a d"),
            keep_mask=keep_B1HW,
            noise=repeat(sampling.noise, "1 1 c h w -> 1 t c h w", t=len(frames)),
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            generators=None if sampling.generator is None else [sampling.generator],
        )
        return faces_BTCHW[0]

    def _one_frame_of_noise(self, seed: int) -> Tensor:
        side = self.clip.resolution // self.autoencoder.downscale
        generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device gets the same
        noise = torch.randn((1, 1, self.autoencoder.latent_channels, side, side), generator=generator)
        return noise.to(self.unet.device)  # float32: a schedule has no room in half precision

    def _speak(
        self, window: Sequence[PlacedFrame], audio: Tensor, reference: Reference, sampling: Sampling
    ) -> Iterator[np.ndarray]:
        """Yield the window's frames with new mouths; frames without a face as they are."""
        shown = [index for index, placed in enumerate(window) if placed.matrix is not None]
        if not shown:
            yield from (placed.frame for placed in window)
            return
        # A short window is filled up with its last face, because the U-Net has seen clips of one length only.
        filled = shown + [shown[-1]] * (self.clip.num_frames - len(shown))
        aligned = np.stack([align(window[i].frame, _matrix(window[i]), self.clip.resolution) for i in filled])
        frames_TCHW = rearrange(to_float(aligned), "t h w c -> t c h w").to(sampling.noise)
        audio_TAD = audio[torch.tensor(filled)].to(sampling.noise)
        faces_TCHW = self.generate(frames_TCHW, reference.of(frames_TCHW), audio_TAD, sampling)
        faces_THWC = rearrange(to_uint8(faces_TCHW), "t c h w -> t h w c").cpu().numpy()
        new_face = dict(zip(shown, faces_THWC, strict=False))
        for index, placed in enumerate(window):
            yield paste_back(placed.frame, new_face[index], _matrix(placed)) if index in new_face else placed.frame


def load_pipeline(folder: str) -> LipSyncPipeline:
    """Return the pipeline of an export folder.

    Raises: MissingWeights, if there is none; WrongWeights, if it cannot be loaded.
    """
    if not (Path(folder) / "model_index.json").is_file():
        raise MissingWeights(
            f"no export at {folder} (no model_index.json there); make one of a run: python -m lipsync_lightning.export run=<run> "
            f"out={folder}, or of released weights: python -m lipsync_lightning.export fetch=latentsync-1.6 out={folder}"
        )
    try:
        return LipSyncPipeline.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise WrongWeights(
            f"{folder} is not a whole export: {str(error).splitlines()[0]}; export the run again"
        ) from error


def with_silence(waveform: Tensor, num_samples: float) -> Tensor:
    """Return the (N,) sound with zeros after it where it is shorter than `num_samples`: the mouth then speaks silence."""
    return functional.pad(waveform, (0, max(0, ceil(num_samples) - len(waveform))))


def refuse_to_overwrite_inputs(out: Path, inputs: Sequence[Path]) -> None:
    """Raises: WouldOverwrite, if `out` is one of the inputs, or a folder."""
    if out.is_dir():
        raise WouldOverwrite(f"out={out} is a folder; give the name of an mp4 file")
    for path in inputs:
        if out.resolve() == path.resolve():
            raise WouldOverwrite(f"out={out} is also an input; choose another name")


def warn_of_other_length(video_seconds: float, sound_seconds: float, tolerance_seconds: float = 0.1) -> None:
    """Warn where picture and sound do not end together."""
    if sound_seconds > video_seconds + tolerance_seconds:
        warnings.warn(
            f"the sound lasts {sound_seconds:.2f} s, the picture {video_seconds:.2f} s: the end is heard but not seen",
            stacklevel=2,
        )
    elif sound_seconds < video_seconds - tolerance_seconds:
        warnings.warn(
            f"the sound lasts {sound_seconds:.2f} s, the picture {video_seconds:.2f} s: the end is shown silent",
            stacklevel=2,
        )


def _matrix(placed: PlacedFrame) -> np.ndarray:
    assert placed.matrix is not None
    return placed.matrix
