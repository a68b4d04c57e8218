"""`python -m lipsync_lightning.infer model=<export> video=<mp4> audio=<wav> out=<mp4>`: lip-sync a video."""

import torch
from omegaconf import DictConfig

from lipsync_lightning.cli import build
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.pipeline.lipsync import load_pipeline

OF_A_CALL = ("video", "audio", "out", "seed", "num_inference_steps", "guidance_scale", "solver", "deep_features_every")
OF_A_CALL += ("windows_at_a_time", "crf", "preset")


def device_and_dtype(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Return both by their names. Raises: BadConfig, if there is no such device or floating-point type."""
    kind = getattr(torch, dtype, None)
    if not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise BadConfig(f"dtype={dtype} is no floating-point type of torch; give float32, bfloat16 or float16")
    try:
        return torch.empty(0, device=device).device, kind
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadConfig(f"device={device} cannot be used here: {str(error).splitlines()[0]}; try device=cpu") from error


def run(config: DictConfig) -> None:
    device, dtype = device_and_dtype(config.device, config.dtype)
    pipeline = load_pipeline(config.model)
    pipeline.place(device, dtype, **{name: config[name] for name in ("decoder", "compile", "offload")})
    result = pipeline(faces=build(config.faces), **{name: config[name] for name in OF_A_CALL})
    print(
        f"{result.path}: {result.num_synced} of {result.num_frames} frames lip-synced, "
        f"{result.sound_seconds:.2f} s of sound"
    )
