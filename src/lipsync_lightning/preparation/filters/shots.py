"""Third step: where a new shot begins, found while the frames go by."""

from collections import deque
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector
from scenedetect.scene_manager import compute_downscale_factor

from lipsync_lightning.errors import BadConfig


class AdaptiveShots:
    """Shots by PySceneDetect's adaptive detector: a cut changes the picture much more than the frames around it do."""

    name = "shots"

    def __init__(self, *, threshold: float, min_content: float, window: int, min_shot_seconds: float) -> None:
        """Args:
            threshold: how many times as much as on average around it the picture must change.
            min_content: how much it must change at least: mean difference of hue, saturation and value, 0 to 255.
            window: frames before and after a frame that count as around it.
            min_shot_seconds: a shot lasts at least so long.
        Raises: BadConfig, if `window` is below 1.
        Source: PySceneDetect (BSD-3), `detect-adaptive`; its defaults are 3, 15, 2 and 15 frames.
        """
        if window < 1:
            raise BadConfig(f"shots: window must be at least 1 frame, got {window}; PySceneDetect's default is 2")
        self.threshold = threshold
        self.min_content = min_content
        self.window = window
        self.min_shot_seconds = min_shot_seconds

    @property
    def version(self) -> str:
        """What the cuts depend on: the meaning of this step, counted up, and its settings."""
        settings = f"threshold={self.threshold:g} min_content={self.min_content:g} window={self.window}"
        return f"1 adaptive {settings} min_shot_seconds={self.min_shot_seconds:g}"

    def __call__(self, frames: Iterable[np.ndarray], fps: float) -> Iterator[tuple[np.ndarray, bool]]:
        """Yield every frame, (H, W, 3) uint8 RGB, and whether a shot begins with it; the first one always does.

        A frame comes out when `window` more have gone in. The last `window` frames begin no shot.
        """
        detector = AdaptiveDetector(
            adaptive_threshold=self.threshold,
            min_scene_len=round(self.min_shot_seconds * fps),
            window_width=self.window,
            min_content_val=self.min_content,
        )
        waiting: deque[np.ndarray] = deque()
        size: tuple[int, int] | None = None
        num_yielded = 0
        for index, frame in enumerate(frames):
            size = size or _looked_at_size(frame)
            cuts = detector.process_frame(FrameTimecode(index, float(fps)), _looked_at(frame, size))
            waiting.append(frame)
            if len(waiting) > self.window:
                yield waiting.popleft(), num_yielded == 0 or bool(cuts)
                num_yielded += 1
        for frame in waiting:
            yield frame, num_yielded == 0
            num_yielded += 1


class NoShots:
    """The whole video is one shot, as in data sets that were cut at shots before."""

    name = "shots"
    version = "1 none"

    def __call__(self, frames: Iterable[np.ndarray], fps: float) -> Iterator[tuple[np.ndarray, bool]]:
        """Yield every frame and whether it is the first."""
        for index, frame in enumerate(frames):
            yield frame, index == 0


def _looked_at_size(frame: np.ndarray) -> tuple[int, int]:
    """Width and height at which PySceneDetect looks at such frames: the longer side 256 pixels, as its `SceneManager` has it."""
    height, width = frame.shape[:2]
    factor = compute_downscale_factor(max(width, height))
    return max(1, round(width / factor)), max(1, round(height / factor))


def _looked_at(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The frame as the detector expects it: small, bilinear as by default there, BGR."""
    return cv2.cvtColor(cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR), cv2.COLOR_RGB2BGR)
