"""Which pixels of a frame a new face may change, by geometry alone."""

import cv2
import numpy as np


def patch_region(matrix: np.ndarray, resolution: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the canvas of `media.alignment` and one pixel around it as it lies in a frame of `shape`, (H, W) bool."""
    width, height = 210 * resolution // 256, 280 * resolution // 256
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], dtype=np.float64)
    placed = np.rint(corners @ cv2.invertAffineTransform(matrix).T).astype(np.int32)
    filled = cv2.fillConvexPoly(np.zeros(shape[:2], np.uint8), placed, 1)
    return cv2.dilate(filled, np.ones((3, 3))).astype(bool)
