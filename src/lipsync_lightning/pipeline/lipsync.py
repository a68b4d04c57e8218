"""Video and speech to video: the face of the video says the speech."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import diffusers
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from einops import rearrange, repeat
from torch import Tensor, nn

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.diffusion import inpaint, require_trained
from lipsync_lightning.errors import BadConfig, MissingWeights, WrongWeights
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.people import MeshPeople, People
from lipsync_lightning.models.audio_encoder import LogMelAudioEncoder, WhisperAudioEncoder
from lipsync_lightning.models.autoencoder import LinearAutoencoder, StableDiffusionAutoencoder
from lipsync_lightning.models.compiling import compile_blocks
from lipsync_lightning.models.unet import LipSyncUNet, require_fitting_latents
from lipsync_lightning.pipeline.checks import check_call, check_counts, check_sampling, free_path
from lipsync_lightning.pipeline.fitness import Occluder, Thresholds
from lipsync_lightning.pipeline.painting import SceneSpeaker
from lipsync_lightning.pipeline.plan import plan_of
from lipsync_lightning.pipeline.provenance import identity
from lipsync_lightning.pipeline.reference import REFERENCES
from lipsync_lightning.pipeline.result import write_result
from lipsync_lightning.pipeline.script import script_of
from lipsync_lightning.pipeline.shortcuts import at_work, solver_of, tiny_decoder
from lipsync_lightning.pipeline.sources import VideoFile, first_frame, video_of


class LipSyncPipeline(DiffusionPipeline):
    """Streams a video through the U-Net in windows of `clip.num_frames`; a few of them are in memory at a time.

    `LipSyncPipeline.from_pretrained(folder)` loads an export, `save_pretrained(folder)` writes one.
    """

    def __init__(
        self,
        unet: LipSyncUNet,
        autoencoder: StableDiffusionAutoencoder | LinearAutoencoder,
        audio_encoder: WhisperAudioEncoder | LogMelAudioEncoder,
        scheduler: SchedulerMixin,
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
        check_sampling(num_inference_steps, guidance_scale, scheduler)
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

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str = "cuda") -> None:
        """Keep U-Net and autoencoder in the CPU's memory whenever the other one works, as `place` does."""
        place = torch.device(device)
        self.place(place if gpu_id is None else torch.device(place.type, gpu_id), self.unet.dtype, offload=True)

    @torch.no_grad()
    def __call__(
        self,
        video: Any,
        audio: Any = None,
        *,
        out: Any = None,
        segments: Path | str | None = None,
        faces: People | None = None,
        face: str | int = "largest",
        fitness: Thresholds | None = None,
        occluder: Occluder | None = None,
        length: str | None = None,
        extend: str = "pingpong",
        start: float = 0.0,
        end: float | None = None,
        sound_offset: float = 0.0,
        speak_silence: bool = False,
        audio_track: int | str | None = None,
        fps: float = 25.0,
        sample_rate: int = 16000,
        seed: int = 0,
        generator: torch.Generator | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        solver: str | None = "ddim",
        deep_features_every: int = 1,
        callback_on_step_end: Callable[..., Any] | None = None,
        windows_at_a_time: int = 1,
        overlap: int = 2,
        pasting: str = "mask",
        keep_sound: bool = False,
        crf: int = 11,
        preset: str = "veryfast",
    ) -> Any:
        """Return a `LipSyncResult`: `video`, saying `audio`, in the file `out`, or as frames if there is no `out`.

        The video is read twice: first people and shots are found, then windows are painted, read ahead of the model and
        written behind it by threads. Every frame is shown when it was; what is not generated keeps its pixels. Scenes
        that were finished when a job was killed are not made again.

        Args:
            video: a path (a photo, too), or frames at `fps`: uint8 (F, H, W, 3), floats in [0, 1], PIL. A list of
                paths, with lists of `audio` and `out`, gives a list of results.
            audio: a path, or mono samples (N,) at `sample_rate`; with `segments`, what is heard instead of theirs.
            out: .mp4, .m4v, .mov or .mkv.
            segments: csv of person,start,end,sound: who says what (`pipeline.script`).
            faces: where people are; None for `MeshPeople`. face: who speaks: see `pipeline.choice.choose`.
            fitness: which frames are left alone; None for `pipeline.fitness.Thresholds()`.
            occluder: sees what lies before a face and is to stay there.
            length, extend: see `pipeline.timeline.timeline`; None for "video", and "audio" for a photo.
            start, end: part of the video, in seconds. sound_offset: when the sound begins, in seconds of the result.
            speak_silence: paint a closed mouth where the sound has ended; else the video is left as it was.
            audio_track: of a file with several: a number from 0, or a language; None for the default one.
            seed, generator: of the noise, which is the same for every window, as published.
            num_inference_steps, guidance_scale: None for the export's own.
            solver: one of `pipeline.shortcuts.SOLVERS`; None for the pipeline's scheduler as it is.
            deep_features_every: steps for which the U-Net's coarse features are computed once; 1 is exact.
            callback_on_step_end: (pipeline, step, timestep, {"latents"}), after each denoising step of each window.
            windows_at_a_time: in one batch; costs memory, changes nothing.
            overlap: frames that successive windows share and are blended over.
            pasting: "mask" replaces what is generated; "published" the whole aligned face.
            keep_sound: samples untouched (FLAC where uncompressed); else what most players play. crf, preset: of x264.
        Raises: BadMedia, MissingAudio for the inputs; NoFace, if nobody can be given a mouth; WouldOverwrite, if `out`
            is an input or a folder; BadConfig, if a number or a name means nothing.
        """
        asked = {name: value for name, value in locals().items() if name not in ("self", "video", "audio", "out")}
        if isinstance(video, list | tuple) and len(video) and isinstance(video[0], str | Path):
            sounds, outs = (given or [None] * len(video) for given in (audio, out))
            return [self(v, a, out=o, **asked) for v, a, o in zip(video, sounds, outs, strict=True)]
        inpaint = self.inpainter(
            seed, num_inference_steps, guidance_scale, solver, deep_features_every, generator, callback_on_step_end
        )
        check_call(self.clip.num_frames, asked)
        source = video_of(video, fps, start, end)
        bar: Any = self.progress_bar(total=source.info.about_frames)  # pyright: ignore[reportCallIssue]
        with TemporaryDirectory() as given, bar:
            script = script_of(segments, audio, str(face), sound_offset, sample_rate, audio_track, Path(given))
            inputs = {"video": source.path} if isinstance(source, VideoFile) else {}
            inputs |= script.files(but=Path(given))
            path = None if out is None else free_path(Path(out), list(inputs.values()))
            bar.set_description("looking")
            tracker = (faces or MeshPeople()).for_video(Path(str(source)), first_frame(start, source.info.fps))
            chosen = {name: asked[name] for name in ("fitness", "length", "extend", "speak_silence", "audio_track")}
            plan = plan_of(source, tracker, script.lines, self.audio_encoder, self.clip, **chosen, seen=bar.update)
            bar.reset(plan.num_frames)
            bar.set_description("speaking" if path is None else path.name)
            images = plan.timeline.images(plan.source)
            paint = SceneSpeaker(
                inpaint=inpaint,
                device=self._visited or self.unet.device,
                clip=self.clip,
                reference=REFERENCES[self.config["reference"]],
                mask=1 - keep_mask(self.clip.resolution, self.config["mask"]).numpy() if pasting == "mask" else None,
                occluder=occluder,
                overlap=overlap,
                at_a_time=windows_at_a_time,
                done=bar.update,
            )
            networks = [self.unet, self.autoencoder, self.audio_encoder, *([self._decoder] if self._decoder else [])]
            name = partial(identity, self.config.get("_name_or_path"), *networks)
            return write_result(path, plan, paint, images, script=script, inputs=inputs, identity=name, asked=asked)

    def inpainter(
        self,
        seed: int,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        solver: str | None = "ddim",
        deep_features_every: int = 1,
        generator: torch.Generator | None = None,
        callback_on_step_end: Callable[..., Any] | None = None,
    ) -> Callable[..., Tensor]:
        """Return `diffusion.inpaint` with all but some windows' `frames`, `reference` and `audio` given.

        Every frame of every window starts from the same noise, as published. Raises: BadConfig, as a call does.
        """
        steps = self.config["num_inference_steps"] if num_inference_steps is None else num_inference_steps
        scale = self.config["guidance_scale"] if guidance_scale is None else guidance_scale
        check_sampling(steps, scale, self.scheduler)
        check_counts(deep_features_every=deep_features_every)
        scheduler: Any = self.scheduler if solver is None else solver_of(self.scheduler, solver)
        require_trained(scheduler, steps, self.config["trained_timesteps"])
        # On the CPU, so that every device gets the same; in float32: a schedule has no room in half precision.
        generator, side = (
            generator or torch.Generator().manual_seed(seed),
            self.clip.resolution // self.autoencoder.downscale,
        )
        shape = (1, 1, self.autoencoder.latent_channels, side, side)
        noise = torch.randn(shape, generator=generator, device=generator.device)
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
            on_step_end=callback_on_step_end and partial(self._step_ended, callback_on_step_end),
        )

    def _step_ended(self, callback: Callable[..., Any], step: int, timestep: float, latents: Tensor) -> Tensor:
        return (callback(self, step, timestep, {"latents": latents}) or {}).get("latents", latents)


setattr(diffusers, "LipSyncPipeline", LipSyncPipeline)  # noqa: B010 - where `DiffusionPipeline` looks for a class


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
