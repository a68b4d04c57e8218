"""Who is drawn: proportions and colours of a made-up person."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

Colour = tuple[int, int, int]  # RGB

HAIR_STYLES = ("bald", "short", "fringe", "side_parting", "long", "curly", "bun", "scarf")
BACKGROUNDS = ("plain", "gradient", "stripes", "dots", "panels")
CLOTHES = ("round_neck", "v_neck", "collar")

_SKINS: tuple[Colour, ...] = (
    (250, 221, 200),
    (240, 200, 172),
    (232, 184, 148),
    (214, 160, 120),
    (190, 134, 96),
    (160, 108, 74),
    (138, 92, 66),
    (122, 80, 58),
)
_HAIRS: tuple[Colour, ...] = (
    (30, 24, 24),
    (62, 42, 30),
    (104, 68, 40),
    (168, 122, 66),
    (222, 186, 116),
    (164, 72, 36),
    (150, 150, 156),
    (226, 224, 220),
    (70, 60, 110),
)
_IRISES: tuple[Colour, ...] = ((70, 46, 30), (110, 76, 40), (70, 110, 160), (80, 130, 90), (110, 120, 130))
_FABRICS: tuple[Colour, ...] = (
    (200, 60, 60),
    (40, 90, 150),
    (50, 130, 90),
    (230, 180, 60),
    (120, 70, 140),
    (240, 240, 236),
    (50, 54, 66),
    (220, 130, 160),
)
_WALLS: tuple[Colour, ...] = (
    (176, 204, 220),
    (212, 196, 222),
    (222, 214, 190),
    (178, 212, 186),
    (232, 190, 170),
    (120, 140, 164),
    (150, 160, 150),
    (236, 236, 232),
)
_LIP_TINT: Colour = (196, 62, 78)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One person's looks. Lengths are factors of an average face unless a unit is given."""

    skin: Colour
    lips: Colour
    hair: Colour
    brows: Colour
    iris: Colour
    clothing: Colour
    trim: Colour
    wall: Colour
    wall_accent: Colour
    hair_style: str
    background: str
    clothes: str
    face_width: float
    jaw_width: float
    chin_length: float
    brow_distance: float  # half the distance between brow centres, in canvas units
    brow_thickness: float
    brow_tilt: float  # canvas units from the inner to the outer end
    eye_size: float
    nose_width: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    glasses: bool
    freckles: bool
    rosiness: float  # 0 to 1

    @classmethod
    def from_seed(cls, seed: int | Sequence[int]) -> Self:
        """Return the person of a seed; one seed, one person."""
        rng = np.random.default_rng(seed)
        skin = _pick(_SKINS, rng, spread=8)
        hair = _pick(_HAIRS, rng, spread=10)
        wall = _pick(_WALLS, rng, spread=12)
        style = HAIR_STYLES[int(rng.integers(len(HAIR_STYLES)))]
        return cls(
            skin=skin,
            lips=mix(mix(skin, _LIP_TINT, rng.uniform(0.4, 0.85)), (0, 0, 0), 0.08),
            hair=_pick(_FABRICS, rng, spread=10) if style == "scarf" else hair,
            brows=mix(mix(hair, (50, 36, 30), 0.5), skin, 0.12),
            iris=_pick(_IRISES, rng, spread=10),
            clothing=_pick(_FABRICS, rng, spread=14),
            trim=_pick(_FABRICS, rng, spread=14),
            wall=wall,
            wall_accent=mix(wall, _pick(_WALLS, rng, spread=12), 0.6),
            hair_style=style,
            background=BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))],
            clothes=CLOTHES[int(rng.integers(len(CLOTHES)))],
            face_width=float(rng.uniform(0.9, 1.06)),
            jaw_width=float(rng.uniform(0.86, 1.08)),
            chin_length=float(rng.uniform(-3, 3)),
            brow_distance=float(rng.uniform(41, 47)),
            brow_thickness=float(rng.uniform(0.6, 1.5)),
            brow_tilt=float(rng.uniform(-4, 5)),
            eye_size=float(rng.uniform(0.85, 1.2)),
            nose_width=float(rng.uniform(0.8, 1.3)),
            mouth_width=float(rng.uniform(0.88, 1.12)),
            upper_lip=float(rng.uniform(0.7, 1.25)),
            lower_lip=float(rng.uniform(0.8, 1.25)),
            glasses=bool(rng.uniform() < 0.22),
            freckles=bool(rng.uniform() < 0.15),
            rosiness=float(rng.uniform(0.1, 1)),
        )


def _pick(palette: Sequence[Colour], rng: np.random.Generator, *, spread: int) -> Colour:
    near = np.array(palette[int(rng.integers(len(palette)))]) + rng.integers(-spread, spread + 1, 3)
    red, green, blue = np.clip(near, 0, 255).tolist()
    return red, green, blue


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return the colour `share` of the way from `first` to `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue
