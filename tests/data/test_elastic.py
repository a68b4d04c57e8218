"""A run that goes on with another number of processes or workers reads every window of an epoch once."""

from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from zlib import crc32

import pytest

from lipsync_lightning.data.windows import window_seed
from tiny_shards import data_of, write_shards

WINDOWS_PER_CLIP = 3
NUM_CLIPS = 7
EPOCH = NUM_CLIPS * WINDOWS_PER_CLIP
BATCH_SIZE = 2


class Part(NamedTuple):
    """Steps of a run between two stops."""

    ranks: int
    workers: int
    steps: int
    accumulate: int = 1


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("elastic"), [[WINDOWS_PER_CLIP] * num for num in (2, 2, 2, 1)])


def read(shards: Path, part: Part, state: dict[str, Any] | None) -> tuple[list[tuple], dict[str, Any]]:
    """Return the windows that all ranks read, step after step, and the state that the checkpoint after them holds."""
    begun_at = state["global_step"] if state else 0
    batches, states = [], []
    for rank in range(part.ranks):
        trainer = SimpleNamespace(
            global_rank=rank, world_size=part.ranks, global_step=begun_at, accumulate_grad_batches=part.accumulate
        )
        data = data_of(shards, num_workers=part.workers, shuffle_buffer=3)
        data.trainer = trainer  # pyright: ignore[reportAttributeAccessIssue]
        if state is not None:
            data.load_state_dict(state)
        batches.append(list(islice(data.train_dataloader(), part.steps * part.accumulate)))
        trainer.global_step = begun_at + part.steps
        states.append(data.state_dict())
    assert all(other == states[0] for other in states)
    rows = [
        row
        for of_ranks in zip(*batches, strict=True)
        for batch in of_ranks
        for row in zip(batch["id"], *(batch[key].tolist() for key in ("number", "seed", "draw")), strict=True)
    ]
    return rows, states[0]


PATHS = {
    "2, 1, 3 processes": [Part(2, 1, 3), Part(1, 0, 3), Part(3, 1, 4), Part(1, 2, 8)],
    "3, 2 processes in the middle of a clip": [Part(3, 0, 1), Part(2, 1, 5), Part(3, 0, 5)],
    "half the processes, twice the batches a step": [
        Part(2, 0, 4),
        Part(1, 1, 4, accumulate=2),
        Part(2, 0, 3),
        Part(3, 0, 2, accumulate=2),
    ],
}


@pytest.mark.parametrize("parts", PATHS.values(), ids=PATHS)
def test_no_window_is_read_twice_or_lost_and_all_come_in_the_order_of_one_process(shards: Path, parts: list[Part]):
    seen, state = [], None
    for part in parts:
        rows, state = read(shards, part, state)
        seen += rows
    assert state is not None
    assert (state["windows_read"], state["global_step"]) == (len(seen), sum(part.steps for part in parts))
    alone, _ = read(shards, Part(1, 0, -(-len(seen) // BATCH_SIZE)), None)
    assert seen == alone[: len(seen)]
    assert len(seen) >= 2 * EPOCH
    for epoch in range(len(seen) // EPOCH):
        of_epoch = seen[epoch * EPOCH : (epoch + 1) * EPOCH]
        assert set(Counter((key, number) for key, number, *_ in of_epoch).values()) == {1}
        assert all(seed == window_seed([1, epoch, crc32(key.encode()), number]) for key, number, seed, _ in of_epoch)
