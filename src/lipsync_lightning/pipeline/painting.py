"""New faces for a scene, and their way into its frames."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.media.alignment import paste_back
from lipsync_lightning.media.frames import to_float, to_uint8
from lipsync_lightning.pipeline.fitness import Occluder
from lipsync_lightning.pipeline.plan import Scene
from lipsync_lightning.pipeline.reference import Reference
from lipsync_lightning.pipeline.windows import Batch, Turn, batches, windows_of
from lipsync_lightning.threads import ahead, behind


@dataclass(frozen=True, kw_only=True)
class SceneSpeaker:
    """Writes the frames of scenes with new mouths; windows are read ahead of the model, and written behind it."""

    inpaint: Callable[..., Tensor]  # `LipSyncPipeline.inpainter`
    device: torch.device
    clip: ClipSpec
    reference: Reference
    mask: np.ndarray | None  # (R, R), 1 where a face is generated; None for the published pasting
    occluder: Occluder | None
    overlap: int
    at_a_time: int
    done: Callable[[int], Any]  # is told of frames

    def __call__(self, scene: Scene, images: Iterator[np.ndarray], write: Callable[[np.ndarray], Any]) -> None:
        windows = windows_of(scene.turns, self.clip.num_frames, self.overlap, self.reference)
        read = ahead(batches(images, len(scene.frames), windows, self.clip.resolution, self.at_a_time), 1)
        with closing(read) as made, behind(Painter(write, self.mask, self.occluder, self.overlap), 1) as put:
            for batch in made:
                put((batch, self._new_faces(batch)))
                self.done(len(batch.images))

    @torch.no_grad()
    def _new_faces(self, batch: Batch) -> list[np.ndarray]:
        """Return what the faces of each window are to become, (T, R, R, 3), uint8."""
        if not batch.windows:
            return []
        frames_BTCHW, reference_BTCHW = (
            rearrange(to_float(torch.from_numpy(np.stack(faces)).to(self.device)), "b t h w c -> b t c h w")
            for faces in (batch.faces, batch.references)
        )
        audio = torch.stack([window.turn.audio(window.frames) for window in batch.windows])
        made_BTCHW = self.inpaint(frames=frames_BTCHW, reference=reference_BTCHW, audio=audio.to(frames_BTCHW))
        return list(rearrange(to_uint8(made_BTCHW), "b t c h w -> b t h w c").cpu().numpy())


class Painter:
    """Blends what windows made of each frame and pastes it in; writes a frame when no window changes it any more."""

    def __init__(
        self,
        write: Callable[[np.ndarray], None],
        mask: np.ndarray | None,
        occluder: Occluder | None = None,
        overlap: int = 0,
    ) -> None:
        """Args:
        mask: (R, R), 1 where a face is generated; None for the published pasting, which no occluder bounds.
        overlap: frames over which windows are blended, at both ends.
        """
        self._write, self._mask, self._occluder, self._overlap = write, mask, occluder, overlap
        self._made: dict[tuple[Turn, int], tuple[np.ndarray, float, np.ndarray]] = {}
        self._images: deque[np.ndarray] = deque()
        self._written = 0

    def __call__(self, made: tuple[Batch, Sequence[np.ndarray]]) -> None:
        """Take a batch, and a new face (T, R, R, 3), uint8, for each frame of its windows."""
        batch, new = made
        for window, faces, seen in zip(batch.windows, new, batch.faces, strict=True):
            for place, frame in enumerate(window.frames):
                if place and frame == window.frames[place - 1]:
                    break  # a short turn's last frame, once more
                share = min(place + 1, len(window.frames) - place, self._overlap + 1)
                before, shares, _ = self._made.get((window.turn, frame), (0.0, 0.0, seen[place]))
                total = before + faces[place] * np.float32(share)
                self._made[window.turn, frame] = total, shares + share, seen[place]
        self._images += batch.images
        while self._images and self._written < batch.finished:
            image = self._images.popleft()
            for turn, frame in [key for key in self._made if key[1] == self._written]:
                total, shares, old = self._made.pop((turn, frame))
                face, weight = np.rint(total / shares).astype(np.uint8), float(turn.weights[frame - turn.frames.start])
                mask = self._mask
                if mask is not None and self._occluder is not None:
                    mask = mask * (1 - self._occluder(old))
                image = paste_back(image, face, turn.matrix(frame), mask, weight)
            self._write(image)
            self._written += 1
