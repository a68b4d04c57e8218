"""Who is drawn: proportions and colours of a made-up person."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

Colour = tuple[int, int, int]  # RGB

HAIR_STYLES = ("bald", "short", "fringe", "side_parting", "long", "curly", "bun", "scarf")
BACKGROUNDS = ("plain", "gradient", "stripes", "dots", "panels")
CLOTHES = ("round_neck", "v_neck", "collar")


def _palette(hexadecimal: str) -> tuple[Colour, ...]:
    return tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, hexadecimal.split()))


_SKINS = _palette("faddc8 f0c8ac e8b894 d6a078 be8660 a06c4a 8a5c42 7a503a")
_HAIRS = _palette("1e1818 3e2a1e 684428 a87a42 deba74 a44824 96969c e2e0dc 463c6e")
_IRISES = _palette("462e1e 6e4c28 466ea0 50825a 6e7882")
_FABRICS = _palette("c83c3c 285a96 32825a e6b43c 78468c f0f0ec 323642 dc82a0")
_WALLS = _palette("b0ccdc d4c4de ded6be b2d4ba e8beaa 788ca4 96a096 ecece8")
_LIP_TINT: Colour = (196, 62, 78)
_RANGES = {
    "face_width": (0.9, 1.06),
    "jaw_width": (0.86, 1.08),
    "chin_length": (-3, 3),
    "brow_distance": (41, 47),
    "brow_thickness": (0.6, 1.5),
    "brow_tilt": (-4, 5),
    "eye_size": (0.85, 1.2),
    "nose_width": (0.8, 1.3),
    "mouth_width": (0.88, 1.12),
    "upper_lip": (0.7, 1.25),
    "lower_lip": (0.8, 1.25),
}


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
        style = _one_of(HAIR_STYLES, rng)
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
            background=_one_of(BACKGROUNDS, rng),
            clothes=_one_of(CLOTHES, rng),
            **{name: rng.uniform(low, high) for name, (low, high) in _RANGES.items()},
            glasses=rng.uniform() < 0.22,
            freckles=rng.uniform() < 0.15,
            rosiness=rng.uniform(0.1, 1),
        )


def _one_of(choices: Sequence[Any], rng: np.random.Generator) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _pick(palette: Sequence[Colour], rng: np.random.Generator, *, spread: int) -> Colour:
    near = np.array(_one_of(palette, rng)) + rng.integers(-spread, spread + 1, 3)
    red, green, blue = np.clip(near, 0, 255).tolist()
    return red, green, blue


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return the colour `share` of the way from `first` to `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue
