"""Where a new shot begins, found while the frames go by."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector
from scenedetect.scene_manager import compute_downscale_factor

Frame = TypeVar("Frame", bound=Any)


@dataclass(frozen=True, kw_only=True)
class AdaptiveShots:
    """Shots by PySceneDetect's adaptive detector: a cut changes the picture much more than the frames around it do.

    Source: PySceneDetect (BSD-3), `detect-adaptive`; its defaults are 3, 15, 2 and 15 frames.
    """

    threshold: float  # how many times as much as on average around it the picture must change
    min_content: float  # how much it must change at least: mean difference of hue, saturation and value, 0 to 255
    window: int  # frames before and after a frame that count as around it, at least 1
    min_shot_seconds: float  # a shot lasts at least so long

    def __call__(
        self, frames: Iterable[Frame], fps: float, image: Callable[[Frame], np.ndarray] = lambda frame: frame
    ) -> Iterator[tuple[Frame, bool]]:
        """Yield every frame, and whether a shot begins with it; the first one always does.

        A frame comes out when `window` more have gone in. The last `window` frames begin no shot.

        Args: image: what gives a frame's picture, (H, W, 3) uint8 RGB; by default the frame is one.
        """
        detector = AdaptiveDetector(
            adaptive_threshold=self.threshold,
            min_scene_len=round(self.min_shot_seconds * fps),
            window_width=self.window,
            min_content_val=self.min_content,
        )
        waiting: deque[Frame] = deque()
        size: tuple[int, int] | None = None
        is_first = True
        for index, frame in enumerate(frames):
            if size is None:  # at which PySceneDetect looks: the longer side 256 pixels, as its SceneManager has it
                height, width = image(frame).shape[:2]
                factor = compute_downscale_factor(max(width, height))
                size = max(1, round(width / factor)), max(1, round(height / factor))
            small = cv2.resize(image(frame), size, interpolation=cv2.INTER_LINEAR)
            cuts = detector.process_frame(FrameTimecode(index, float(fps)), cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
            waiting.append(frame)
            if index >= self.window:
                yield waiting.popleft(), index == self.window or bool(cuts)
                is_first = False
        for frame in waiting:
            yield frame, is_first
            is_first = False
