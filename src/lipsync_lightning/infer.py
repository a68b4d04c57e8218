"""`python -m lipsync_lightning.infer model=<export> video=<mp4> audio=<wav> out=<mp4>`: lip-sync a video."""

import torch
from omegaconf import DictConfig

from lipsync_lightning.entry import build, entry_point
from lipsync_lightning.pipeline.lipsync import load_pipeline


@entry_point("infer")
def main(config: DictConfig) -> None:
    pipeline = load_pipeline(config.model).to(config.device, getattr(torch, config.dtype))
    result = pipeline(
        video=config.video,
        audio=config.audio,
        out=config.out,
        faces=build(config.faces),
        seed=config.seed,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
    )
    print(f"{result.path}: {result.num_synced} of {result.num_frames} frames lip-synced, {result.sound_seconds:.2f} s of sound")


if __name__ == "__main__":
    main()
