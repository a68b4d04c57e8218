"""How far a real mouth is open, from the face mesh."""

import numpy as np

from lipsync_lightning.media.face_mesh import FaceFinder, Rectangle, mouth_opening

_AROUND = 1.25  # the mesh looks for a face in a square that leaves some room around an aligned one


def mesh_opening(faces: np.ndarray) -> np.ndarray:
    """Return the gap between the inner lips as a share of the distance of the outer eye corners, (T,).

    NaN where no mesh is found. Args: faces: (T, R, R, 3), uint8 RGB, aligned. Raises: MissingWeights.
    """
    finder, side = FaceFinder(), faces.shape[1]
    square = Rectangle(x=side / 2, y=side / 2, side=_AROUND * side, angle=0.0)
    openings = np.full(len(faces), np.nan)
    for number, face in enumerate(faces):
        mesh = finder.mesh(face, square)
        if mesh is not None:
            openings[number] = mouth_opening(mesh)
    return openings
