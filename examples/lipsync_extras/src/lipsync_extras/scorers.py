"""A scorer of preparation's last filter: what is out of focus is thrown away, without a network."""

import cv2
import numpy as np


class FocusScorer:
    """Quality of a clip: the variance of its middle frame's Laplacian, in 8-bit grey levels squared."""

    version = "laplacian of the middle frame"  # part of the rule a folder of shards was prepared by

    def __call__(self, faces: np.ndarray) -> float:
        """Return the focus of faces (T, R, R, 3), uint8 RGB."""
        grey = cv2.cvtColor(faces[len(faces) // 2], cv2.COLOR_RGB2GRAY)
        return float(cv2.Laplacian(grey, cv2.CV_64F).var())
