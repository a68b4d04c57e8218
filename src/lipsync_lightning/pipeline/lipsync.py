"""Video and speech to video: the face of the video says the speech."""

import os
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
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
from torch import Tensor, nn
from torch.nn import functional

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.diffusion import inpaint, require_trained
from lipsync_lightning.errors import BadConfig, BadMedia, MissingWeights, NoFace, WouldOverwrite, WrongWeights
from lipsync_lightning.media.alignment import FacePoints
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.media.frames import to_float, to_uint8
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.mux import video_writer
from lipsync_lightning.media.video import probe, read_frames
from lipsync_lightning.models.audio_encoder import LogMelAudioEncoder, WhisperAudioEncoder
from lipsync_lightning.models.autoencoder import LinearAutoencoder, StableDiffusionAutoencoder
from lipsync_lightning.models.compiling import compile_blocks
from lipsync_lightning.models.unet import LipSyncUNet, require_fitting_latents
from lipsync_lightning.pipeline.reference import REFERENCES, Reference
from lipsync_lightning.pipeline.shortcuts import at_work, solver_of, tiny_decoder
from lipsync_lightning.pipeline.windows import Window, aligned_windows, placed_frames, with_new_faces
from lipsync_lightning.threads import ahead, behind

_SAME_LENGTH_S = 0.1  # picture and sound that differ by less end together


@dataclass(frozen=True)
class LipSyncResult:
    path: Path
    num_frames: int
    num_synced: int  # frames with a face; the others were passed through
    sound_seconds: float


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
        trained_timesteps: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Args:
            clip: a `ClipSpec` as a dict, so that it is stored in `model_index.json`. Not optional: it has a default
                only because diffusers takes every argument without one for a network.
            num_inference_steps, guidance_scale: what a call uses unless told otherwise.
            reference: name of one of `pipeline.reference.REFERENCES`.
            mask: what is generated, one of `media.masks.REGIONS`: the one the U-Net was trained with.
            trained_timesteps: [lowest, highest] of each stretch that the U-Net was trained at; None for all.
        Raises: BadConfig, if there is no such reference or mask, a number means nothing, or sampling would visit
            timesteps that were not trained; WrongWeights, if the
            U-Net's channels do not fit the autoencoder's; ClipMismatch, if `clip` is no ClipSpec.
        """
        super().__init__()
        # What decodes in place of the autoencoder, and where networks go to work that wait on the CPU.
        self._decoder, self._visited = None, None
        self.register_modules(unet=unet, autoencoder=autoencoder, audio_encoder=audio_encoder, scheduler=scheduler)
        self.register_to_config(
            clip=clip,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            reference=reference,
            mask=mask,
            trained_timesteps=trained_timesteps,
        )
        self.clip = ClipSpec.from_dict(clip or {}, "the export's model_index.json")
        _check_sampling(num_inference_steps, guidance_scale)
        require_trained(scheduler, num_inference_steps, trained_timesteps)
        keep_mask(self.clip.resolution, mask)
        if reference not in REFERENCES:
            raise BadConfig(f"reference={reference!r} is none of {sorted(REFERENCES)}; choose one of them")
        require_fitting_latents(unet, autoencoder)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **options: Any) -> Self:
        """Return the pipeline of an export; options as in diffusers."""
        # Without this it would warn on every load where `accelerate` is not installed.
        return super().from_pretrained(pretrained_model_name_or_path, **{"low_cpu_mem_usage": False, **options})

    def place(
        self,
        device: torch.device,
        dtype: torch.dtype,
        *,
        decoder: str | None = None,
        compile: bool = False,
        offload: bool = False,
    ) -> Self:
        """Return the pipeline, ready to work on a device.

        Args:
            decoder: folder of diffusers' `AutoencoderTiny`, to decode with instead: faster, less sharp.
            compile: compile the networks' blocks at their first use, a minute or more.
            offload: keep U-Net and autoencoder in the CPU's memory whenever the other one works; 512 pixels fit 8 GB.
        Raises: MissingWeights, WrongWeights for the decoder; BadConfig, where nothing can be compiled.
        """
        for name, value in (("compile", compile), ("offload", offload)):
            if not isinstance(value, bool):
                raise BadConfig(f"{name}={value!r} must be true or false")
        self._decoder = None if decoder is None else tiny_decoder(decoder, self.autoencoder)
        self._visited = device if offload else None
        if offload and isinstance(self.autoencoder, StableDiffusionAutoencoder):
            self.autoencoder.frames_at_a_time = 4  # below what the U-Net needs at 512 pixels
        for network in (self.unet, self.autoencoder, self.audio_encoder, self._decoder or self.audio_encoder):
            waits = offload and network in (self.unet, self.autoencoder)
            nn.Module.to(network, "cpu" if waits else device, dtype)  # diffusers' own warns of what is asked for
        if compile:
            compile_blocks(self.unet, self.autoencoder, device=device.type)
        return self

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
        solver: str = "ddim",
        deep_features_every: int = 1,
        windows_at_a_time: int = 1,
        crf: int = 18,
        preset: str = "veryfast",
    ) -> LipSyncResult:
        """Write `video`, saying `audio`, to `out` (mp4), and return what was written.

        The result has the video's size, frame rate and frame count, and all of the sound, its samples untouched.
        Frames without a face pass through. Where the sound ends early the mouth speaks silence. Windows are read ahead
        of the model and written behind it by threads, which changes nothing.

        Args:
            faces: where the face is, such as `media.people.MeshPeople()`.
            num_inference_steps, guidance_scale: None for the export's own.
            solver: one of `pipeline.shortcuts.SOLVERS`; "dpm" needs fewer steps.
            deep_features_every: steps for which the U-Net's coarse features are computed once; 1 is exact.
            windows_at_a_time: in one batch; costs memory, changes nothing.
            crf, preset: of x264.
        Raises: BadMedia, MissingAudio for the inputs; NoFace, if no frame has one; WouldOverwrite, if `out` is an input
            or a folder; BadConfig, if a number or a name means nothing.
        """
        out, size = Path(out), self.clip.num_frames
        if out.is_dir():
            raise WouldOverwrite(f"out={out} is a folder; give the name of an mp4 file")
        if out.resolve() in (Path(video).resolve(), Path(audio).resolve()):
            raise WouldOverwrite(f"out={out} is also an input; choose another name")
        inpaint = self.inpainter(seed, num_inference_steps, guidance_scale, solver, deep_features_every)
        _check_counts(windows_at_a_time=windows_at_a_time)
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

        num_frames = num_synced = 0
        out.parent.mkdir(parents=True, exist_ok=True)
        writer = video_writer(out, width=info.width, height=info.height, fps=fps, sound=audio, crf=crf, preset=preset)
        with (
            self.progress_bar(total=most_frames - size) as bar,  # pyright: ignore[reportCallIssue]
            writer as write,
            closing(ahead(aligned_windows(frames, size, self.clip.resolution), windows_at_a_time)) as windows,
            behind(lambda made: deque(map(write, with_new_faces(*made)), 0), windows_at_a_time) as put,
        ):
            bar.set_description(out.name)
            while batch := list(islice(windows, windows_at_a_time)):
                audio_TAD = list(islice(tokens, len(batch)))
                if len(audio_TAD) < len(batch):
                    raise BadMedia(f"{video} has more frames than its {info.duration_s:.2f} s hold; convert it to mp4")
                for made in zip(batch, self._new_faces(batch, audio_TAD, reference, inpaint), strict=True):
                    put(made)
                num_frames += sum(len(window.placed) for window in batch)
                num_synced += sum(len(set(window.heard)) for window in batch)
                bar.update(num_frames - bar.n)
            if num_synced == 0:
                raise NoFace(f"{video}: no face on any of {num_frames} frames, nothing was written; give another video")
        return LipSyncResult(out, num_frames, num_synced, sound_seconds)

    def inpainter(
        self,
        seed: int,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        solver: str = "ddim",
        deep_features_every: int = 1,
    ) -> Callable[..., Tensor]:
        """Return `diffusion.inpaint` with all but some windows' `frames`, `reference` and `audio` given.

        Every frame of every window starts from the same noise, as published. Raises: BadConfig, as a call does.
        """
        steps = self.config["num_inference_steps"] if num_inference_steps is None else num_inference_steps
        scale = self.config["guidance_scale"] if guidance_scale is None else guidance_scale
        _check_sampling(steps, scale)
        _check_counts(deep_features_every=deep_features_every)
        scheduler = solver_of(self.scheduler, solver)
        require_trained(scheduler, steps, self.config["trained_timesteps"])
        # On the CPU, so that every device gets the same; in float32: a schedule has no room in half precision.
        generator, side = torch.Generator().manual_seed(seed), self.clip.resolution // self.autoencoder.downscale
        noise = torch.randn((1, 1, self.autoencoder.latent_channels, side, side), generator=generator)
        mask, device = keep_mask(self.clip.resolution, self.config["mask"]), self._visited or self.unet.device
        return partial(
            inpaint,
            self.unet,
            self.autoencoder,
            scheduler,
            keep_mask=rearrange(mask, "h w -> 1 1 h w").to(device),
            noise=repeat(noise, "1 1 c h w -> 1 t c h w", t=self.clip.num_frames).to(device),
            num_inference_steps=steps,
            guidance_scale=scale,
            generators=[torch.Generator(device).manual_seed(seed)],
            decoder=self._decoder,
            visit=partial(at_work, device=self._visited, deep_features_every=deep_features_every),
        )

    def _new_faces(
        self, windows: Sequence[Window], audio: Sequence[Tensor], reference: Reference, inpaint: Callable[..., Tensor]
    ) -> list[np.ndarray]:
        """Return what `Window.faces` are to become, for each window."""
        seen = [index for index, window in enumerate(windows) if window.heard]
        if not seen:
            return [window.faces for window in windows]
        faces_BTHWC = torch.from_numpy(np.stack([windows[index].faces for index in seen]))
        frames_BTCHW = rearrange(to_float(faces_BTHWC.to(self._visited or self.unet.device)), "b t h w c -> b t c h w")
        made_BTCHW = inpaint(
            frames=frames_BTCHW,
            reference=torch.stack([reference.of(frames_TCHW) for frames_TCHW in frames_BTCHW]),
            audio=torch.stack([audio[index][windows[index].heard] for index in seen]).to(frames_BTCHW),
        )
        made = iter(rearrange(to_uint8(made_BTCHW), "b t c h w -> b t h w c").cpu().numpy())
        return [next(made) if window.heard else window.faces for window in windows]


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
    _check_counts(num_inference_steps=num_inference_steps)
    if not (isinstance(guidance_scale, int | float) and guidance_scale >= 0):
        raise BadConfig(f"guidance_scale={guidance_scale!r} must be a number, 0 or more")


def _check_counts(**counts: Any) -> None:
    for name, count in counts.items():
        if not (isinstance(count, int) and count >= 1):
            raise BadConfig(f"{name}={count!r} must be a whole number, 1 or more")
