"""How good a clip looks, with no real one to compare it with."""

from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from torchvision.transforms.functional import center_crop

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.models.hyperiqa import IMAGE_SHAPE, HyperIQA
from lipsync_lightning.models.lazy_network import LazyNetwork, judging, version_by_content
from lipsync_lightning.models.released import hyperiqa

_SIDE = IMAGE_SHAPE[1]


class QualityScorer(Protocol):
    """Scores how good the pictures of one clip look."""

    @property
    def version(self) -> str: ...  # another one where its scores may differ; no spaces

    def __call__(self, faces: np.ndarray) -> float: ...  # of (T, R, R, 3) uint8 RGB faces; larger is better


class HyperIQAScorer(LazyNetwork[HyperIQA]):
    """HyperIQA with the released weights, `koniq_pretrained.pkl`: about 0 to 100.

    Source: LatentSync (arXiv 2412.09262), whose data preparation drops clips below 40. As its public code does it: the
        mean over the first, the middle (T // 2) and the last frame, of each the 224x224 pixels in the middle of the
        aligned face, not resized.
    """

    def __init__(self, *, path: str, device: str) -> None:
        """Args: path: the file its authors released; read when it first scores."""
        super().__init__(device=device)
        self.path = path

    @property
    def version(self) -> str:
        return version_by_content("hyperiqa", self.path)

    def load(self) -> HyperIQA:
        return hyperiqa(path=self.path)

    @judging()
    def __call__(self, faces: np.ndarray) -> float:
        """Return the mean score of three of (T, R, R, 3) uint8 RGB faces. Raises: BadConfig, below 224 pixels."""
        if faces.shape[1] < _SIDE:
            told = f"HyperIQA scores the middle {_SIDE}x{_SIDE} pixels of a face, got faces of {faces.shape[1]} pixels"
            raise BadConfig(f"{told}; prepare with clip=256px_25fps, or with recipe.quality=null")
        chosen_THWC = torch.from_numpy(faces[[0, len(faces) // 2, -1]])
        images_BCHW = center_crop(rearrange(chosen_THWC, "t h w c -> t c h w"), [_SIDE, _SIDE])
        return float(self.network(images_BCHW.to(self.device).float() / 255).mean())
