"""Video and speech to video: the face of the video says the speech."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
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

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.diffusion import inpaint
from lipsync_lightning.errors import BadConfig, BadMedia, MissingWeights, NoFace, WouldOverwrite, WrongWeights
from lipsync_lightning.media.alignment import Aligner, FacePoints, Points, align, paste_back
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.media.frames import to_float, to_uint8
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.mux import video_writer
from lipsync_lightning.media.video import probe, read_frames
from lipsync_lightning.models.audio_encoder import LogMelAudioEncoder, WhisperAudioEncoder
from lipsync_lightning.models.autoencoder import LinearAutoencoder, StableDiffusionAutoencoder
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.pipeline.reference import REFERENCES, Reference

_SAME_LENGTH_S = 0.1  # picture and sound that differ by less end together


@dataclass(frozen=True)
class LipSyncResult:
    path: Path
    num_frames: int
    num_synced: int  # frames with a face; the others were passed through
    sound_seconds: float


@dataclass(frozen=True)
class PlacedFrame:
    """One frame of the input video."""

    frame: np.ndarray  # (H, W, 3), uint8
    matrix: np.ndarray | None  # (2, 3), from image pixels to the aligned face; None where no face was found


def placed_frames(
    frames: Iterable[np.ndarray], points_of: Callable[[np.ndarray], Points | None], resolution: int
) -> Iterator[PlacedFrame]:
    """Yield every frame with its alignment. Where the face is lost, the alignment starts afresh when it returns."""
    aligner = Aligner(resolution=resolution)
    for frame in frames:
        points = points_of(frame)
        if points is None:
            aligner = Aligner(resolution=resolution)
        yield PlacedFrame(frame, None if points is None else aligner.matrix(points))


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
            clip: a `ClipSpec` as a dict, so that it is stored in `model_index.json`. Not optional: it has a default
                only because diffusers takes every argument without one for a network.
            num_inference_steps, guidance_scale: what a call uses unless told otherwise.
            reference: name of one of `pipeline.reference.REFERENCES`.
            mask: what is generated, one of `media.masks.REGIONS`: the one the U-Net was trained with.
        Raises: BadConfig, if there is no such reference or mask, or a number means nothing; WrongWeights, if the
            U-Net's channels do not fit the autoencoder's; ClipMismatch, if `clip` is no ClipSpec.
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
        self.clip = ClipSpec.from_dict(clip or {}, "the export's model_index.json")
        _check_sampling(num_inference_steps, guidance_scale)
        keep_mask(self.clip.resolution, mask)
        if reference not in REFERENCES:
            raise BadConfig(f"reference={reference!r} is none of {sorted(REFERENCES)}; choose one of them")
        taken, made = unet.config["in_channels"], 3 * autoencoder.latent_channels + 1
        if taken != made:
            told = f"the U-Net takes {taken} channels, not {made}"
            raise WrongWeights(f"{told}; export it and its autoencoder from one run")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **options: Any) -> Self:
        """Return the pipeline of an export; options as in diffusers."""
        # Without this it would warn on every load where `accelerate` is not installed.
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

        Args:
            faces: where the face is, such as `media.people.MeshPeople()`.
            num_inference_steps, guidance_scale: None for the export's own.
        Raises: BadMedia, MissingAudio for the inputs; NoFace, if no frame has one; WouldOverwrite, if `out` is an input
            or a folder; BadConfig, if a number means nothing.
        """
        out, size = Path(out), self.clip.num_frames
        if out.is_dir():
            raise WouldOverwrite(f"out={out} is a folder; give the name of an mp4 file")
        if out.resolve() in (Path(video).resolve(), Path(audio).resolve()):
            raise WouldOverwrite(f"out={out} is also an input; choose another name")
        info = probe(video)
        fps = float(info.fps)
        waveform = torch.from_numpy(read_audio(audio, self.clip.sample_rate_hz))
        sound_seconds = len(waveform) / self.clip.sample_rate_hz
        if abs(sound_seconds - info.duration_s) > _SAME_LENGTH_S:
            end = "heard but not seen" if sound_seconds > info.duration_s else "shown silent"
            lengths = f"the sound lasts {sound_seconds:.2f} s, the picture {info.duration_s:.2f} s"
            warnings.warn(f"{lengths}: the end is {end}", stacklevel=2)
        silence = max(0, ceil(info.duration_s * self.clip.sample_rate_hz) - len(waveform))
        # One window more than the container promises; the stream of frames decides where to stop.
        most_frames = ceil(info.duration_s * fps) + size
        tokens = self.audio_encoder.token_windows(functional.pad(waveform, (0, silence)), most_frames, fps, size)
        frames = placed_frames(read_frames(video, fps=fps), faces.for_video(Path(video)), self.clip.resolution)
        reference = REFERENCES[self.config["reference"]]()
        inpaint = self.inpainter(seed, num_inference_steps, guidance_scale)

        num_frames = num_synced = 0
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            self.progress_bar(total=most_frames - size) as bar,  # pyright: ignore[reportCallIssue]
            video_writer(out, width=info.width, height=info.height, fps=fps, sound=audio) as write,
        ):
            bar.set_description(out.name)
            while window := list(islice(frames, size)):
                audio_TAD = next(tokens, None)
                if audio_TAD is None:
                    raise BadMedia(f"{video} has more frames than its {info.duration_s:.2f} s hold; convert it to mp4")
                for frame in self._with_new_mouths(window, audio_TAD, reference, inpaint):
                    write(frame)
                num_frames += len(window)
                num_synced += sum(placed.matrix is not None for placed in window)
                bar.update(len(window))
            if num_synced == 0:
                raise NoFace(f"{video}: no face on any of {num_frames} frames, nothing was written; give another video")
        return LipSyncResult(out, num_frames, num_synced, sound_seconds)

    def inpainter(
        self, seed: int, num_inference_steps: int | None = None, guidance_scale: float | None = None
    ) -> Callable[..., Tensor]:
        """Return `diffusion.inpaint` with all but a window's `frames`, `reference` and `audio` given.

        Every frame of every window starts from the same noise, as published.
        """
        steps = self.config["num_inference_steps"] if num_inference_steps is None else num_inference_steps
        scale = self.config["guidance_scale"] if guidance_scale is None else guidance_scale
        _check_sampling(steps, scale)
        side = self.clip.resolution // self.autoencoder.downscale
        # On the CPU, so that every device gets the same; in float32: a schedule has no room in half precision.
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((1, 1, self.autoencoder.latent_channels, side, side), generator=generator)
        device = self.unet.device
        mask = rearrange(keep_mask(self.clip.resolution, self.config["mask"]), "h w -> 1 1 h w")
        return partial(
            inpaint,
            self.unet,
            self.autoencoder,
            self.scheduler,
            keep_mask=mask.to(device),
            noise=repeat(noise, "1 1 c h w -> 1 t c h w", t=self.clip.num_frames).to(device),
            num_inference_steps=steps,
            guidance_scale=scale,
            generators=[torch.Generator(device).manual_seed(seed)],
        )

    def _with_new_mouths(
        self, window: Sequence[PlacedFrame], audio_TAD: Tensor, reference: Reference, inpaint: Callable[..., Tensor]
    ) -> Iterator[np.ndarray]:
        """Yield the window's frames with new mouths; frames without a face as they are."""
        matrices = {index: placed.matrix for index, placed in enumerate(window) if placed.matrix is not None}
        if not matrices:
            yield from (placed.frame for placed in window)
            return
        # A short window is filled up with its last face, because the U-Net has seen clips of one length only.
        filled = [*matrices, *[max(matrices)] * (self.clip.num_frames - len(matrices))]
        aligned = np.stack([align(window[i].frame, matrices[i], self.clip.resolution) for i in filled])
        frames_TCHW = rearrange(to_float(aligned), "t h w c -> t c h w").to(self.unet.device)
        faces_BTCHW = inpaint(
            frames=frames_TCHW[None],
            reference=reference.of(frames_TCHW)[None],
            audio=audio_TAD[None, filled].to(frames_TCHW),
        )
        faces_THWC = rearrange(to_uint8(faces_BTCHW), "1 t c h w -> t h w c").cpu().numpy()
        new_faces = dict(zip(matrices, faces_THWC, strict=False))
        for index, placed in enumerate(window):
            found = index in matrices
            yield paste_back(placed.frame, new_faces[index], matrices[index]) if found else placed.frame


def load_pipeline(folder: str) -> LipSyncPipeline:
    """Return the pipeline of an export folder.

    Raises: MissingWeights, if there is none; WrongWeights, if it cannot be loaded.
    """
    if not (Path(folder) / "model_index.json").is_file():
        raise MissingWeights(
            f"no export at {folder} (no model_index.json there); make one of a run or of released weights: "
            "python -m lipsync_lightning.export"
        )
    try:
        return LipSyncPipeline.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise WrongWeights(f"{folder} is not a whole export: {reason}; export the run again") from error


def _check_sampling(num_inference_steps: Any, guidance_scale: Any) -> None:
    if not (isinstance(num_inference_steps, int) and num_inference_steps >= 1):
        raise BadConfig(f"num_inference_steps={num_inference_steps!r} must be a whole number, 1 or more")
    if not (isinstance(guidance_scale, int | float) and guidance_scale >= 0):
        raise BadConfig(f"guidance_scale={guidance_scale!r} must be a number, 0 or more")
