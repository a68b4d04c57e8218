"""The parts of a drawn face: hair, eyes, brows, nose and mouth. All lengths are canvas units."""

import numpy as np

from lipsync_lightning.synthetic.identity import Colour, Identity, mix
from lipsync_lightning.synthetic.pencil import MIDDLE, Pencil, band, brow_line, ellipse, smooth_outline

MOUTH_Y = 184.0  # where the lips meet
_WIDEST_GAP = 42.0  # between the lips of a wide open mouth: 0.16 of the face's height
_UPPER_SHARE = 0.2  # of the gap is made by raising the upper lip, the rest by lowering the lower one
_INTERIOR: Colour = (22, 4, 8)
_TEETH: Colour = (240, 234, 224)
_TONGUE: Colour = (84, 22, 32)
_WHITE: Colour = (246, 244, 240)
_BLACK: Colour = (18, 14, 14)
_SHADOW: Colour = (60, 20, 10)


def draw_mouth(pencil: Pencil, identity: Identity, opening: float, width: float) -> None:
    """Draw the lips and, as far as they are apart, what is behind them."""
    half = (23 + 13 * width) * identity.mouth_width
    gap = opening * _WIDEST_GAP
    pout = 1.25 - 0.35 * width
    across = np.linspace(-1, 1, 21)
    arch = 1 - across**2
    gap_x, lip_x = MIDDLE + half * 0.9 * across, MIDDLE + half * across
    upper = MOUTH_Y - _UPPER_SHARE * gap * arch**0.8
    lower = MOUTH_Y + (1 - _UPPER_SHARE) * gap * arch**0.7
    bow = 7.5 * identity.upper_lip * pout * arch**0.7 * (1 - 0.28 * np.exp(-((across / 0.16) ** 2)))
    bottom = lower + 9.5 * identity.lower_lip * pout * arch**0.7
    pencil.fill(band(lip_x, upper - bow, bottom), identity.lips)
    shine_y = (lower * 0.5 + bottom * 0.5)[10] + 1.2 * across**2
    shine = np.column_stack([MIDDLE + half * 0.45 * across, shine_y])
    pencil.line(shine, mix(identity.lips, (255, 235, 230), 0.22), 2)
    if gap < 1.0:
        pencil.line(np.column_stack([gap_x, lower]), mix(identity.lips, _SHADOW, 0.6), 1.5)
        return
    pencil.fill(band(gap_x, upper, lower), _INTERIOR)
    tongue = max(0.0, gap - 14) * 0.25
    if tongue > 0.5:
        near = slice(5, 16)
        pencil.fill(band(gap_x[near], lower[near], lower[near] - arch[near] ** 1.2 * tongue), _TONGUE)
    teeth = min(6.0, max(0.0, gap - 13) * 0.25)
    if teeth > 0.5:
        near = slice(3, 18)
        pencil.fill(band(gap_x[near], upper[near], upper[near] + arch[near] ** 0.5 * teeth), _TEETH)


def draw_nose(pencil: Pencil, identity: Identity) -> None:
    """Draw a nose whose tip is the alignment's nose point."""
    tip_y = brow_line(identity)[1]
    half = 15 * identity.nose_width
    light, dark = mix(identity.skin, (255, 245, 235), 0.25), mix(identity.skin, _SHADOW, 0.28)
    side = [(5, -52), (6, -28), (half * 0.9, -2), (half, 6)]
    pencil.line(np.add(side, (MIDDLE, tip_y)), mix(identity.skin, _SHADOW, 0.16), 3)
    base = [(-half, 5), (-half * 0.6, 11), (0, 14), (half * 0.6, 11), (half, 5)]
    pencil.line(np.add(base, (MIDDLE, tip_y)), dark, 3)
    for offset in (-0.42, 0.42):
        pencil.fill(ellipse(MIDDLE + half * offset, tip_y + 9, 3.6, 2.2), mix(dark, _SHADOW, 0.55))
    pencil.fill(ellipse(MIDDLE - 2, tip_y - 2, 4.5, 4), light)


def draw_eyes(pencil: Pencil, identity: Identity, blink: float) -> None:
    eye_y = brow_line(identity)[0] + 26
    half_width, half_height = 16 * identity.eye_size, 9 * identity.eye_size
    across = np.linspace(-1, 1, 15)
    lid, lash = mix(identity.skin, _SHADOW, 0.12), mix(identity.brows, _BLACK, 0.6)
    for side in (-1, 1):
        eye_x = MIDDLE + side * 37
        x = eye_x + half_width * across
        upper_y = eye_y - half_height * (1 - across**2) ** 0.8
        lower_y = eye_y + half_height * 0.75 * (1 - across**2) ** 0.8
        edge_y = upper_y + (lower_y - upper_y) * 0.9 * blink
        pencil.fill(band(x, upper_y, lower_y), _WHITE)
        pencil.fill(ellipse(eye_x, eye_y, 7.6 * identity.eye_size, 7.2 * identity.eye_size), identity.iris)
        pencil.fill(ellipse(eye_x, eye_y, 3.6, 3.6), _BLACK)
        pencil.fill(ellipse(eye_x - 2.4, eye_y - 2.4, 1.6, 1.6), _WHITE)
        pencil.fill(band(x, upper_y - 2.5, edge_y), lid)
        pencil.line(np.column_stack([x, edge_y]), lash, 3)
        if identity.glasses:
            rim = ellipse(eye_x, eye_y + 2, 27, 22)
            pencil.line(np.concatenate([rim, rim[:1]]), lash, 3)
            temple_x = MIDDLE + side * 78 * identity.face_width
            pencil.line([(eye_x + side * 27, eye_y), (temple_x, eye_y - 4)], lash, 3)
    if identity.glasses:
        pencil.line([(MIDDLE - 10, eye_y - 2), (MIDDLE, eye_y - 5), (MIDDLE + 10, eye_y - 2)], lash, 3)


def draw_brows(pencil: Pencil, identity: Identity, brow_raise: float) -> None:
    brow_y = brow_line(identity)[0] - brow_raise
    along = np.linspace(-1, 1, 9)
    for side in (-1, 1):
        x = MIDDLE + side * (identity.brow_distance + 19 * along)
        middle_y = brow_y + 2 - 4 * (1 - along**2) + identity.brow_tilt * along * 0.5
        thick = 3.6 * identity.brow_thickness * (1 - 0.45 * (along + 1) / 2)
        pencil.fill(band(x, middle_y - thick, middle_y + thick), identity.brows)


def draw_hair_back(pencil: Pencil, identity: Identity) -> None:
    """Draw the hair or cloth behind the head; what is beside the face grows with its width."""
    wide, style, colour = identity.face_width, identity.hair_style, mix(identity.hair, (0, 0, 0), 0.18)
    if style == "long":
        x = [0, 60, 94 * wide, 98 * wide, 104 * wide, 100 * wide, 60, 0]
        pencil.fill(smooth_outline(np.column_stack([x, (-36, -26, 20, 90, 180, 262, 276, 276)])), colour)
    elif style == "scarf":
        x = [0, 58, 90 * wide, 94 * wide, 92 * wide, 78, 50, 0]
        pencil.fill(smooth_outline(np.column_stack([x, (-34, -24, 24, 96, 180, 262, 290, 296)])), colour)
    elif style == "curly":
        pencil.fill(ellipse(MIDDLE, 40, 88 * wide, 78), colour)
        for turn in np.linspace(-1.15, 1.15, 11) * np.pi / 2:
            pencil.fill(ellipse(MIDDLE + 86 * wide * np.sin(turn), 44 - 70 * np.cos(turn), 27, 27), colour)
    elif style == "bun":
        pencil.fill(ellipse(MIDDLE, -38, 32, 26), colour)
        pencil.fill(ellipse(MIDDLE, 42, 86 * wide, 68), colour)
    elif style != "bald":
        pencil.fill(ellipse(MIDDLE, 42, 86 * wide, 66), colour)


_HAIRLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "short": ((-1, 56), (-0.86, 26), (-0.5, 14), (0, 11), (0.5, 14), (0.86, 26), (1, 56)),
    "fringe": ((-1, 66), (-0.84, 34), (-0.4, 31), (0, 32), (0.4, 30), (0.84, 34), (1, 66)),
    "side_parting": ((-1, 60), (-0.8, 36), (-0.2, 24), (0.3, 4), (0.5, 6), (0.88, 30), (1, 60)),
    "long": ((-1, 90), (-0.84, 40), (-0.4, 14), (0, 0), (0.4, 14), (0.84, 40), (1, 90)),
    "curly": ((-1, 54), (-0.8, 26), (-0.45, 22), (0, 17), (0.45, 22), (0.8, 26), (1, 54)),
    "bun": ((-1, 50), (-0.8, 18), (-0.4, 6), (0, 3), (0.4, 6), (0.8, 18), (1, 50)),
    "scarf": ((-1, 120), (-0.93, 60), (-0.66, 20), (0, 8), (0.66, 20), (0.93, 60), (1, 120)),
}


def draw_hair_front(pencil: Pencil, identity: Identity) -> None:
    """Draw the hair or cloth that covers the forehead, down to the style's hairline."""
    if identity.hair_style not in _HAIRLINES:
        return
    half = 83 * identity.face_width
    hairline = np.array(_HAIRLINES[identity.hair_style]) * (half, 1) + (MIDDLE, 0)
    turns = np.linspace(np.pi / 2, -np.pi / 2, 25)
    crown_y = hairline[0, 1]
    crown = np.column_stack([MIDDLE + half * np.sin(turns), crown_y - (crown_y + 28) * np.cos(turns)])
    pencil.fill(np.concatenate([hairline, crown]), identity.hair)
