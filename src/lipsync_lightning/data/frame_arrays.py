"""Arrays of a clip with one entry per video frame, stored so that any of its frames can be read, and checked, without the others."""

from collections.abc import Mapping
from io import BytesIO
from math import prod
from typing import Any, Protocol
from zlib import crc32

import numpy as np

from lipsync_lightning.shards.faults import ClipFault, Reason

_TYPE = np.dtype("<f2")  # half precision: latents and audio tokens are about of unit variance


class Part(Protocol):
    """A member of which parts are read."""

    size: int  # bytes

    def __call__(self, first: int, size: int) -> bytes: ...


def stored_array(frames: np.ndarray) -> tuple[bytes, dict[str, Any]]:
    """Return an array (F, ...) as the content of a .npy file, in half precision, and the facts that `read_frames` needs to read it.

    Raises: ValueError, if a value is not finite in half precision.
    """
    halves = np.ascontiguousarray(frames, dtype=_TYPE)
    if not np.isfinite(halves).all():
        raise ValueError(
            f"an array of shape {frames.shape} has values beyond half precision, up to {np.abs(frames).max():g}"
        )
    content = BytesIO()
    np.save(content, halves)
    return content.getvalue(), {"shape": list(halves.shape), "crc32": [crc32(frame.tobytes()) for frame in halves]}


def read_frames(part: Part, facts: Mapping[str, Any], first: int, last: int, where: str) -> np.ndarray:
    """Return frames `first` to `last - 1` of a stored array, (last - first, ...), float16.

    Args: facts: from `stored_array`.
    Raises: ClipFault, naming `where`, if a frame is not what was stored.
    """
    shape = tuple(facts["shape"])
    frame_size = prod(shape[1:]) * _TYPE.itemsize
    header_size = part.size - shape[0] * frame_size
    content = part(header_size + first * frame_size, (last - first) * frame_size)
    view = memoryview(content)
    for number in range(last - first):
        if crc32(view[number * frame_size : (number + 1) * frame_size]) != facts["crc32"][first + number]:
            raise ClipFault(
                f"{where}: frame {first + number} has another crc32 than was stored; encode the shard again",
                Reason.CORRUPT,
            )
    return np.frombuffer(content, _TYPE).reshape(last - first, *shape[1:])
