"""A ComfyUI node: pictures and sound in, the same pictures saying the sound out."""

from functools import lru_cache
from typing import Any

import torch

from lipsync_lightning.pipeline.lipsync import LipSyncPipeline, load_pipeline

try:  # what ComfyUI's own cancel button raises
    from comfy.model_management import throw_exception_if_processing_interrupted as raise_if_cancelled
except ImportError:

    def raise_if_cancelled() -> None:
        """Nothing can be cancelled outside ComfyUI."""


@lru_cache(maxsize=1)
def placed_pipeline(folder: str) -> LipSyncPipeline:
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    return load_pipeline(folder).place(torch.device(device), dtype)


class LipSync:
    CATEGORY = "video"
    FUNCTION = "speak"
    RETURN_TYPES = ("IMAGE", "AUDIO")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple]]:  # noqa: N802
        return {
            "required": {
                "images": ("IMAGE",),
                "audio": ("AUDIO",),
                "model": ("STRING", {"default": "runs/demo/export"}),
                "face": ("STRING", {"default": "largest"}),
                "fps": ("FLOAT", {"default": 25.0, "min": 1.0, "max": 120.0, "step": 0.001}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63 - 1}),
                "steps": ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": "0: as the model says"}),
                "guidance": ("FLOAT", {"default": -1.0, "min": -1.0, "max": 20.0, "tooltip": "-1: as the model says"}),
            }
        }

    def speak(
        self,
        images: torch.Tensor,
        audio: dict[str, Any],
        model: str,
        face: str,
        fps: float,
        seed: int,
        steps: int,
        guidance: float,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return the pictures (F, H, W, 3), in [0, 1], and the sound as it came."""
        result = placed_pipeline(model)(
            images.numpy(),
            audio["waveform"][0].mean(dim=0).numpy(),
            sample_rate=audio["sample_rate"],
            face=int(face) if face.isdigit() else face,
            fps=fps,
            seed=seed,
            num_inference_steps=steps or None,
            guidance_scale=None if guidance < 0 else guidance,
            callback_on_step_end=lambda pipeline, step, timestep, tensors: raise_if_cancelled() or tensors,
        )
        return torch.from_numpy(result.frames).float() / 255, audio


NODE_CLASS_MAPPINGS = {"LipsyncLightning": LipSync}
NODE_DISPLAY_NAME_MAPPINGS = {"LipsyncLightning": "Lip sync (lipsync_lightning)"}
