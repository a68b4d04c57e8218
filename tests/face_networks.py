"""Tests that look for faces need the networks that `make setup` fetches."""

import pytest

from lipsync_lightning.errors import MissingWeights
from lipsync_lightning.media.face_networks import COMMAND, FACE_MODELS, face_model_path


def networks_are_missing() -> bool:
    try:
        for name in FACE_MODELS:
            face_model_path(name)
    except MissingWeights:
        return True
    return False


needs_networks = pytest.mark.skipif(
    networks_are_missing(), reason=f"the face networks are not fetched: run `{COMMAND}`"
)
