"""`LIPSYNC_WEIGHTS=weights python benchmarks/covered.py <video>…`: how often a mouth is held to be covered.

Prints a Markdown table: the share of frames left alone as covered, of videos of speaking people as they are, darker,
greyer and smaller, and of the middle third of the same videos where something is drawn before the mouth in it.
"""

import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from lipsync_lightning.media.face_mesh import FaceFinder, rectangle_of_mesh
from lipsync_lightning.media.video import read_frames
from lipsync_lightning.pipeline.fitness import Thresholds, measure, reasons_of, records_of

FRAMES = 75
SKIN = [10, 151, 9, 108, 337, 50, 280]  # mesh points of forehead and cheeks
# Of each thing: ellipses (across, down, half width, half height, turn) and a box (left, top, right, bottom), from the
# middle of the mouth, in distances of the outer eye corners; colours, None for the person's own skin.
THINGS = {
    "bar": ([], (-1.2, -0.32, 1.2, 0.3), [None, (40, 70, 150)]),
    "microphone": ([(0.05, 0.12, 0.3, 0.34, 0)], (-0.02, 0.4, 0.18, 2.2), [(25, 25, 28), (120, 120, 125)]),
    "hand": (
        [(0.1, 0.75, 0.6, 0.5, 0), *[(0.27 * k - 0.38, 0.03, 0.125, 0.6, 5 * k - 8) for k in range(4)]],
        None,
        [None, (120, 85, 65)],
    ),
    "food": ([(0, 0.05, 0.22, 0.2, 0)], None, [(170, 40, 30), (225, 220, 210)]),
}


def meshes_of(frames: list[np.ndarray]) -> list[np.ndarray | None]:
    """Return the mesh (468, 2) of one face in each frame, None where there is none."""
    finder, mesh, found = FaceFinder(), None, []
    for frame in frames:
        squares = [each.square for each in finder.detections(frame)[:1]] if mesh is None else [rectangle_of_mesh(mesh)]
        mesh = finder.mesh(frame, squares[0]) if squares else None
        found.append(mesh)
    return found


def covered(frames: list[np.ndarray]) -> np.ndarray:
    """Return on which frames, (F,) bool, the mouth is held to be covered; NaN where no face is seen."""
    rows = [None if m is None else measure(f, m) for f, m in zip(frames, meshes_of(frames), strict=True)]
    reasons = reasons_of(records_of(np.full(len(rows), 256.0), rows), Thresholds(min_side_px=0, max_turn_degrees=90))
    return np.where([row is None for row in rows], np.nan, reasons == "something covers the mouth")


def drawn_before(frame: np.ndarray, mesh: np.ndarray, thing: str, colour: tuple[int, ...] | None) -> np.ndarray:
    ellipses, box, _ = THINGS[thing]
    across = mesh[263] - mesh[33]
    down, middle, length = np.array([-across[1], across[0]]), mesh[[13, 14]].mean(axis=0), np.linalg.norm(across)
    mask = np.zeros(frame.shape[:2], np.float32)
    for x, y, width, height, turn in ellipses:
        angle = float(np.degrees(np.arctan2(across[1], across[0]))) + turn
        sizes = (2 * width * length, 2 * height * length)
        cv2.ellipse(mask, (tuple((middle + x * across + y * down).tolist()), sizes, angle), 1.0, -1)
    if box:
        left, top, right, bottom = box
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        cv2.fillConvexPoly(mask, np.rint([middle + x * across + y * down for x, y in corners]).astype(np.int32), 1.0)
    if colour is None:
        inside = np.clip(np.rint(mesh[SKIN]).astype(int), 0, np.array(frame.shape[1::-1]) - 1)
        colour = tuple(np.median(frame[inside[:, 1], inside[:, 0]], axis=0))
    mask = cv2.GaussianBlur(mask, (0, 0), 1.2)[..., None]
    rows, columns = np.mgrid[: frame.shape[0], : frame.shape[1]]
    shade = 8 * np.sin(columns / 9 + rows / 13)[..., None]
    return np.clip(frame * (1 - mask) + (np.array(colour) + shade) * mask, 0, 255).astype(np.uint8)


def with_thing(frames: list[np.ndarray], thing: str, colour: tuple[int, ...] | None) -> tuple[list[np.ndarray], slice]:
    middle = slice(len(frames) // 3, len(frames) // 3 + len(frames) // 5)
    meshes = meshes_of(frames)
    new = list(frames)
    for index in range(*middle.indices(len(frames))):
        mesh = meshes[index]
        new[index] = frames[index] if mesh is None else drawn_before(frames[index], mesh, thing, colour)
    return new, middle


def grey(frame: np.ndarray) -> np.ndarray:
    return cv2.merge([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)] * 3)


def half(frame: np.ndarray) -> np.ndarray:
    return cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def main() -> None:
    cv2.setNumThreads(1)
    videos = [list(islice(read_frames(Path(path)), FRAMES)) for path in sys.argv[1:]]
    bare: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "as it is": lambda frame: frame,
        "at 0.3 of the light": lambda frame: (frame * 0.3).astype(np.uint8),
        "black and white": grey,
        "half the size": half,
    }
    print("| before the mouth | left alone as covered |\n| --- | ---: |")
    for name, change in bare.items():
        share = np.nanmean(np.concatenate([covered([change(frame) for frame in frames]) for frames in videos]))
        print(f"| nothing, {name} | {share:.2%} |", flush=True)
    for thing, (_, _, colours) in THINGS.items():
        for colour in colours:
            found = [
                (covered(new), middle) for frames in videos[::2] for new, middle in [with_thing(frames, thing, colour)]
            ]
            share = np.nanmean(np.concatenate([each[middle] for each, middle in found]))
            print(f"| {thing}, {'own skin' if colour is None else colour} | {share:.0%} |", flush=True)


if __name__ == "__main__":
    main()
