"""Tests that look for faces need the networks that `make setup` fetches."""

import pytest

from lipsync_lightning.files import weights_dir
from lipsync_lightning.media.face_networks import COMMAND, FACE_NETWORKS

needs_networks = pytest.mark.skipif(
    not all((weights_dir() / "face_mesh" / f"{name}.tflite").is_file() for name in FACE_NETWORKS),
    reason=f"the face networks are not fetched: run `{COMMAND}`",
)
