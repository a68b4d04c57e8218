"""Draws a talking face from proportions, pose and mouth.

Everything is laid out on the alignment canvas (210 wide, 280 high, the template's own coordinates) and then moved into
the picture by one similarity, so that aligning a drawn face brings each part back to where it was laid out.
"""

from functools import lru_cache
from math import cos, radians, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_lightning.synthetic import features
from lipsync_lightning.synthetic.identity import Identity, mix
from lipsync_lightning.synthetic.motion import Pose
from lipsync_lightning.synthetic.pencil import MIDDLE, Floats, Frame, Pencil, brow_line, ellipse, smooth_outline

_HEAD_CENTRE = (MIDDLE, 122.0)  # canvas point that sits in the middle of the picture
_CANVAS_UNITS_PER_PICTURE = 392.0  # a head of 275 units then fills 70 % of the picture
_JAW_DROP = 7.0  # canvas units the chin sinks with the mouth wide open; stays inside the region to be generated
_LEAKED_JAW_DROP = 16.0
_LEAKED_CHEEK_PULL = 7.0
_LEAKED_BLUSH_RISE = 12.0
_LEAKED_BROW_RAISE = 14.0
_LEAKED_SQUINT = 0.7
_SHADE_ORIGIN, _SHADE_SIZE = -60, (330, 400)  # canvas area covered by the shading


def draw_face(
    *, identity: Identity, pose: Pose, opening: float, width: float, blink: float = 0, leak: float = 0, size: int = 208
) -> Frame:
    """Return a picture of one person, (size, size, 3) uint8 RGB.

    Args:
        opening: of the mouth, 0 = lips closed, 1 = wide open.
        width: of the mouth, 0 = rounded, 1 = spread.
        blink: 0 = eyes open, 1 = shut.
        leak: how much of the opening shows outside the region that lip sync generates (jaw line, cheeks), 0 =
            nothing, 1 = plainly, 2 = twice as far, and brows and lids tell it too; points stay at the resting brows.
    """
    told_by_eyes = opening * max(0.0, leak - 1)
    frame = _wall(identity, size).copy()
    head = Pencil(frame, _placement(pose, size))
    _draw_body(Pencil(frame, _placement(Pose(x=pose.x, y=pose.y), size)), identity)
    features.draw_hair_back(head, identity)
    _draw_neck_and_ears(head, identity)
    head.fill(_head_outline(identity, opening, leak), identity.skin)
    _draw_cheeks(head, identity, opening * leak)
    _shade(frame, head.matrix)
    features.draw_nose(head, identity)
    features.draw_eyes(head, identity, max(blink, _LEAKED_SQUINT * told_by_eyes))
    features.draw_brows(head, identity, pose.brow_raise + _LEAKED_BROW_RAISE * told_by_eyes)
    features.draw_mouth(head, identity, opening, width)
    features.draw_hair_front(head, identity)
    return frame


def alignment_points(identity: Identity, pose: Pose, size: int = 208) -> Floats:
    """Return left brow centre, right brow centre and nose centre, (3, 2) as x, y in pixels of the picture."""
    brow_y, nose_y = brow_line(identity)
    brow_y -= pose.brow_raise
    left, right = MIDDLE - identity.brow_distance, MIDDLE + identity.brow_distance
    matrix = _placement(pose, size)
    return np.array([(left, brow_y), (right, brow_y), (MIDDLE, nose_y)]) @ matrix[:, :2].T + matrix[:, 2]


def _placement(pose: Pose, size: int) -> Floats:
    """Return the (2, 3) matrix from canvas to picture."""
    scale = size / _CANVAS_UNITS_PER_PICTURE * pose.scale
    angle = radians(pose.roll_degrees)
    turn = scale * np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    target = size * np.array([0.5 + pose.x, 0.5 + pose.y])
    return np.column_stack([turn, target - turn @ np.array(_HEAD_CENTRE)])


@lru_cache(maxsize=64)
def _wall(identity: Identity, size: int) -> Frame:
    rows, columns = np.mgrid[0:size, 0:size] / size
    patterns = {
        "plain": np.zeros((size, size)),
        "gradient": rows,
        "stripes": ((columns * 9) % 1 < 0.5) * 1.0,
        "dots": (np.hypot((columns * 8) % 1 - 0.5, (rows * 8) % 1 - 0.5) < 0.24) * 1.0,
        "panels": (columns > 0.62) * 0.8 + (rows > 0.4) * 0.2,
    }
    share = cv2.GaussianBlur(patterns[identity.background], (0, 0), size / 200)[..., None]
    return (np.array(identity.wall) * (1 - share) + np.array(identity.wall_accent) * share).astype(np.uint8)


_SHOULDERS = smooth_outline(
    [(0, 262), (40, 266), (85, 284), (135, 304), (160, 340), (170, 480), (0, 480)], stiff_from=5
)
_NECK = smooth_outline([(0, 180), (44, 190), (43, 230), (46, 262), (30, 284), (0, 292)])


def _draw_body(pencil: Pencil, identity: Identity) -> None:
    pencil.fill(_SHOULDERS, identity.clothing)
    if identity.clothes == "v_neck":
        pencil.fill([(62, 268), (148, 268), (MIDDLE, 338)], mix(identity.skin, (60, 20, 10), 0.22))
        pencil.line([(60, 268), (MIDDLE, 340), (150, 268)], identity.trim, 5)
    elif identity.clothes == "collar":
        for side in (-1, 1):
            wing = [(8, 282), (46, 262), (66, 292), (24, 322)]
            pencil.fill([(MIDDLE + side * x, y) for x, y in wing], identity.trim)
    else:
        pencil.fill(ellipse(MIDDLE, 268, 58, 30), identity.trim)


def _draw_neck_and_ears(pencil: Pencil, identity: Identity) -> None:
    shadow = mix(identity.skin, (60, 20, 10), 0.25)
    pencil.fill(_NECK, shadow)
    for side in (-1, 1):
        ear_x = MIDDLE + side * (79 * identity.face_width + 3)
        pencil.fill(ellipse(ear_x, 100, 11, 23), mix(identity.skin, (120, 40, 20), 0.12))
        pencil.fill(ellipse(ear_x + side, 100, 5.5, 14), shadow)


@lru_cache(maxsize=64)
def _resting_outline(identity: Identity) -> Floats:
    wide, jaw, chin = identity.face_width, identity.jaw_width, identity.chin_length
    temples = [0, 38 * wide, 66 * wide, 78 * wide, 79 * wide]
    from_middle = [*temples, 74 * wide * (0.7 + 0.3 * jaw), 60 * jaw, 41 * jaw, 21 * jaw, 0]
    heights = [-16, -10, 14, 56, 100, 146, 190, 222 + 0.6 * chin, 240 + chin, 245 + chin]
    return smooth_outline(np.column_stack([from_middle, heights]))


def _head_outline(identity: Identity, opening: float, leak: float) -> Floats:
    """Return the face's edge with the jaw sunk and, as far as `leak` says, the cheeks drawn in."""
    outline = _resting_outline(identity).copy()
    below = np.clip((outline[:, 1] - 180) / 65, 0, 1)
    cheek = np.clip(1 - np.abs(outline[:, 1] - 105) / 75, 0, 1)
    outline[:, 1] += opening * (_JAW_DROP + leak * _LEAKED_JAW_DROP) * below**1.5
    outline[:, 0] -= np.sign(outline[:, 0] - MIDDLE) * opening * leak * _LEAKED_CHEEK_PULL * cheek
    return outline


def _draw_cheeks(pencil: Pencil, identity: Identity, leaked_opening: float) -> None:
    rosy = mix(identity.skin, (226, 70, 70), 0.06 + 0.14 * identity.rosiness)
    paler = mix(identity.skin, rosy, 0.5)
    cheek_y = 132 - _LEAKED_BLUSH_RISE * leaked_opening * 2
    for side in (-1, 1):
        cheek_x = MIDDLE + side * 50 * identity.face_width
        pencil.fill(ellipse(cheek_x, cheek_y, 20, 15), paler)
        pencil.fill(ellipse(cheek_x, cheek_y, 14, 10), rosy)
        if identity.freckles:
            for dx, dy in ((-12, -6), (-5, -10), (2, -5), (9, -9), (-8, 2), (5, 4)):
                pencil.fill(ellipse(cheek_x + dx, 128 + dy, 1.7, 1.7), mix(identity.skin, (110, 50, 20), 0.45))


@lru_cache(maxsize=1)
def _shading() -> NDArray[np.uint8]:
    """Return soft light from the upper left as brightness over the canvas, 255 = as drawn; the same for everyone."""
    width, height = _SHADE_SIZE
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64) + _SHADE_ORIGIN
    across, down = (columns - MIDDLE) / 80, (rows - 112) / 135
    inside = np.clip((1.05 - np.hypot(across, down)) / 0.3, 0, 1)
    rim = np.clip(np.hypot(across + 0.2, down + 0.1) - 0.45, 0, 1)
    sockets = sum(np.exp(-(((columns - x) / 22) ** 2) - ((rows - 72) / 15) ** 2) for x in (68, 142))
    under_lip = np.exp(-(((columns - MIDDLE) / 20) ** 2) - ((rows - 214) / 6) ** 2)
    dark = inside * (0.26 * rim + 0.1 * sockets + 0.05 * under_lip)
    return np.repeat((255 * (1 - np.clip(dark, 0, 0.4)))[..., None], 3, axis=2).astype(np.uint8)


def _shade(frame: Frame, matrix: Floats) -> None:
    from_texture = matrix.copy()
    from_texture[:, 2] += matrix[:, :2] @ np.full(2, float(_SHADE_ORIGIN))
    side = frame.shape[0]
    light = cv2.warpAffine(_shading(), from_texture, (side, side), flags=cv2.INTER_LINEAR, borderValue=(255, 255, 255))
    cv2.multiply(frame, light, dst=frame, scale=1 / 255)
