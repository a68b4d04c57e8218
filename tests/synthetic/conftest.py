from collections.abc import Callable

import cv2
import numpy as np
import pytest

TEMPLATE = np.array([[17, 20], [58, 20], [37.5, 40]]) * 2.8
CANVAS_WH = (210, 280)


def fit_similarity(points: np.ndarray) -> np.ndarray:
    """Return the (2, 3) least-squares similarity from three picture points to the template."""
    centre, target = points.mean(0), TEMPLATE.mean(0)
    p, t = points - centre, TEMPLATE - target
    a = (p * t).sum() / (p**2).sum()
    b = (p[:, 0] * t[:, 1] - p[:, 1] * t[:, 0]).sum() / (p**2).sum()
    turn = np.array([[a, -b], [b, a]])
    return np.column_stack([turn, target - turn @ centre])


@pytest.fixture
def similarity() -> Callable[[np.ndarray], np.ndarray]:
    return fit_similarity


def align_frame(frame: np.ndarray, points: np.ndarray, resolution: int) -> np.ndarray:
    canvas = cv2.warpAffine(frame, fit_similarity(points), CANVAS_WH)
    return cv2.resize(canvas, (resolution, resolution), interpolation=cv2.INTER_AREA)


@pytest.fixture
def align() -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    return align_frame


@pytest.fixture
def kept() -> np.ndarray:
    """(256, 256) bool, true outside the published U-shaped mouth region: rows 95-242, columns 9-247."""
    generated = np.zeros((256, 256), np.uint8)
    edge = [(8, 95), (77, 95), (77, 129), (177, 129), (177, 95), (247, 95), (245, 162), (241, 174), (230, 192)]
    edge += [(214, 210), (189, 228), (160, 241), (103, 241), (71, 228), (42, 210), (25, 192), (13, 174), (10, 162)]
    cv2.fillPoly(generated, [np.array(edge, np.int32)], 1)
    return generated == 0
