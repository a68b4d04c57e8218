"""Changes of training windows after which lips and sound still belong together."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from lipsync_lightning.errors import BadConfig

_STREAM = 1  # what a window's seed is for here; training draws its noise from the seed alone
_MEL_PER_DB = 8 / 100  # log-mel: 100 dB on a scale from -4 to 4
_LEAST_MEL, _MOST_MEL = -4.0, 4.0


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Changes each window by its own seed, all of its pictures alike: so a resumed run does it again to the bit."""

    flip: float = 0.5  # how often pictures are mirrored
    colour: float = 0.3  # by how much brightness, contrast and saturation go up and down, as a part of themselves
    shift: float = 0.05  # by how much pictures move along and across, as a part of their width
    scale: float = 0.1  # by how much they grow and shrink, as a part of their size
    blur: float = 0.01  # up to which standard deviation they are blurred, as a part of their width
    compression: float = 0.3  # how often they go through JPEG, at a quality of 30 to 90
    gain_db: float = 6.0  # by how much sound becomes louder and quieter
    noise_db: float = 2.0  # standard deviation of each value of the mel
    masked_mels: int = 12  # up to so many neighbouring mel bins are silenced

    def __post_init__(self) -> None:
        """Raises: BadConfig, for a strength that means nothing."""
        shares = ("flip", "colour", "shift", "scale", "blur", "compression")
        for name, strength in vars(self).items():
            if not 0 <= strength <= (1 if name in shares else 80):
                most = "a share, 0 to 1" if name in shares else "0 to 80"
                raise BadConfig(f"data.samples.augment.{name}={strength}: give {most}")

    def __call__(self, batch: dict[str, Any], pictures: Iterable[str], sounds: Iterable[str]) -> dict[str, Any]:
        """Return the batch with changed pictures, (B, T, 3, H, W) uint8, and sounds, (B, 1, M, L), of these keys."""
        changed: dict[str, list[Tensor]] = {key: [] for key in (*pictures, *sounds)}
        for number, seed in enumerate(batch["seed"].tolist()):
            rng = np.random.default_rng([seed, _STREAM])
            mirrored, (width, *factors) = rng.random() < self.flip, rng.uniform(-1, 1, 4)
            place = rng.uniform(-1, 1, 2) * self.shift
            softness, is_compressed, quality = rng.random(), rng.random() < self.compression, int(rng.integers(30, 91))
            for key in pictures:
                frames = self._coloured(batch[key][number], 1 + self.colour * np.array(factors))
                frames = _moved(frames, 1 + self.scale * width, place)
                frames = _blurred(frames, softness * self.blur * frames.shape[-1])
                frames = _compressed(frames, quality) if is_compressed else frames
                changed[key].append(frames.flip(-1) if mirrored else frames)
            for key in sounds:
                changed[key].append(self._heard_elsewhere(batch[key][number], rng))
        return batch | {key: torch.stack(windows) for key, windows in changed.items()}

    def _coloured(self, frames: Tensor, factors: np.ndarray) -> Tensor:
        for adjust, factor in zip(
            (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation),
            factors,
            strict=True,
        ):
            frames = adjust(frames, float(factor))
        return frames

    def _heard_elsewhere(self, mel: Tensor, rng: np.random.Generator) -> Tensor:
        gain, noise = rng.uniform(-1, 1) * self.gain_db, rng.standard_normal(mel.shape, np.float32) * self.noise_db
        num_masked = int(rng.integers(self.masked_mels + 1))
        first = int(rng.integers(mel.shape[-2] - num_masked + 1))
        heard = mel + _MEL_PER_DB * (gain + torch.from_numpy(noise).to(mel.device))
        heard[..., first : first + num_masked, :] = _LEAST_MEL
        return heard.clamp(_LEAST_MEL, _MOST_MEL)


def _blurred(frames: Tensor, sigma: float) -> Tensor:
    """Return frames (T, 3, H, W) blurred by so many pixels; a tenth of one changes nothing that can be seen."""
    return functional.gaussian_blur(frames, [2 * ceil(2 * sigma) + 1] * 2, [sigma, sigma]) if sigma > 0.1 else frames


def _compressed(frames: Tensor, quality: int) -> Tensor:
    """Return frames as JPEG of a quality of 1 to 100 leaves them; torchvision's works on the CPU alone."""
    return torch.stack([functional.jpeg(frame, quality) for frame in frames.cpu()]).to(frames.device)


def _moved(frames: Tensor, size: float, place: np.ndarray) -> Tensor:
    """Return frames `size` times as large and moved by shares of their width; beyond their edge it is repeated."""
    height, width = frames.shape[-2:]
    margin = width // 4
    part_height, part_width = round(height / size), round(width / size)
    top, left = (
        round((whole - part) / 2 + width * by) + margin
        for whole, part, by in zip((height, width), (part_height, part_width), place, strict=True)
    )
    padded = functional.pad(frames, [margin], padding_mode="edge")
    return functional.resized_crop(padded, top, left, part_height, part_width, [height, width], antialias=False)
