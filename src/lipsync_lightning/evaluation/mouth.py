"""How far a real mouth is open, from the face mesh."""

import numpy as np

from lipsync_lightning.media.face_mesh import FaceFinder, Rectangle

_INNER_LIPS = (13, 14)  # points of MediaPipe's mesh: middle of the upper and of the lower lip, where they meet
_EYE_CORNERS = (33, 263)  # outer ones
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
            gap, eyes = (np.linalg.norm(mesh[one] - mesh[other]) for one, other in (_INNER_LIPS, _EYE_CORNERS))
            openings[number] = gap / eyes
    return openings
