"""`LIPSYNC_WEIGHTS=weights python benchmarks/seam.py [<video>…]`: what pasting leaves of a frame, and its seam.

Prints one Markdown table for a drawn person and one for the videos together, if any. The aligned face, blurred and
shifted in colour, stands in for a model's. Seam: the mean gradient across a border, within 2 pixels of it, to that 6 to
14 pixels away on both sides, as a multiple of what the source has there; 1 is no seam. Sharpness: variance of the
Laplacian where the mask keeps the frame, to the source's. PSNR to the source is that of the replaced pixels.
"""

import sys
import tempfile
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from covered import meshes_of
from inference import drawn_upright

from lipsync_lightning.media.alignment import _square_to_frame, align, alignment_matrices, paste_back
from lipsync_lightning.media.face_mesh import alignment_points
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.video import read_frames

EVERY, FRAMES = 5, 10
SHIFT = np.array([4.0, -2.0, -3.0])


def stand_in(face: np.ndarray) -> np.ndarray:
    """Return a face (res, res, 3) as a model might make it: a little soft, a little off in colour."""
    return np.clip(cv2.GaussianBlur(face, (0, 0), 1) * 0.97 + SHIFT + 2, 0, 255).astype(np.uint8)


def luminance(frame: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)


def depth_of(region: np.ndarray, matrix: np.ndarray, resolution: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the signed distance of a frame's pixels (H, W) from the border of a region (res, res), inside positive."""
    placed = cv2.warpAffine(region, _square_to_frame(matrix, resolution), (shape[1], shape[0])) > 0.5
    inside, outside = (cv2.distanceTransform(each.astype(np.uint8), cv2.DIST_L2, 5) for each in (placed, ~placed))
    return inside - outside


def contrast(picture: np.ndarray, depth: np.ndarray) -> float:
    """Return the gradient across a border to that beside it."""
    across = [cv2.Sobel(each, cv2.CV_32F, *axis, scale=0.125) for each in (picture, depth) for axis in ((1, 0), (0, 1))]
    gradient = np.abs(across[0] * across[2] + across[1] * across[3])
    away = np.abs(depth)
    return float(gradient[away <= 2].mean() / gradient[(away >= 6) & (away <= 14)].mean())


def figures(frame: np.ndarray, pasted: np.ndarray, edges: list[np.ndarray]) -> list[float]:
    """Return sharpness kept, brightest pixel over the source's at the canvas's border, both seams, and PSNR."""
    before, after = luminance(frame), luminance(pasted)
    mask, canvas = edges
    kept = (canvas > 0) & (mask < -2)
    sharpness = [cv2.Laplacian(each, cv2.CV_32F)[kept].var() for each in (after, before)]
    error = np.square(pasted[mask > 0].astype(np.float64) - frame[mask > 0]).mean()
    return [
        sharpness[0] / sharpness[1],
        float((after - before)[np.abs(canvas) <= 2].max()),
        *[contrast(after, edge) / contrast(before, edge) for edge in (canvas, mask)],
        10 * np.log10(255**2 / error),
    ]


def print_table(name: str, placed: list[tuple[np.ndarray, np.ndarray]]) -> None:
    columns = "sharpness kept | brightest at the canvas's border | seam there | at the mask | PSNR, dB |"
    print(f"\n| {name}: model, pasting | {columns}")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for resolution in (64, 256, 512):
        generated = 1 - keep_mask(resolution).numpy()
        for way, mask in (("published", None), ("mask", generated)):
            rows = []
            for frame, points in placed:
                matrix = alignment_matrices(points[None], resolution)[0]
                pasted = paste_back(frame, stand_in(align(frame, matrix, resolution)), matrix, mask)
                edges = [depth_of(m, matrix, resolution, frame.shape) for m in (generated, np.ones_like(generated))]
                rows.append(figures(frame, pasted, edges))
            print(f"| {resolution}, {way} | " + " | ".join(f"{each:.2f}" for each in np.mean(rows, axis=0)) + " |")


def main() -> None:
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        drawn, points = drawn_upright(Path(folder))
        print_table("drawn", list(zip(read_frames(drawn), points, strict=False))[::EVERY][:FRAMES])
    placed = []
    for path in map(Path, sys.argv[1:]):
        frames = list(islice(read_frames(path), EVERY * 4))[::EVERY]
        found = zip(frames, meshes_of(frames), strict=True)
        placed += [(frame, alignment_points(mesh)) for frame, mesh in found if mesh is not None]
    if placed:
        print_table(f"{len(placed)} frames of {len(sys.argv) - 1} videos", placed)


if __name__ == "__main__":
    main()
