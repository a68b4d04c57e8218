"""A run that goes on with another number of processes or workers reads every window of an epoch once."""

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import pytest

from lipsync_lightning.data.windows import window_seed
from tiny_shards import data_of, trainer_of, write_shards

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
    batches, states = [], []
    for rank in range(part.ranks):
        data = data_of(shards, num_workers=part.workers, shuffle_buffer=3)
        trainer = data.trainer = trainer_of(rank=rank, ranks=part.ranks, accumulate=part.accumulate)
        if state is not None:
            data.load_state_dict(state)
        loader = data.train_dataloader()
        trainer.num_training_batches = len(loader)
        (epoch, _, done), wanted, mine = data.begun, part.steps * part.accumulate, []
        while True:
            mine += islice(loader, wanted - len(mine))
            if len(mine) == wanted:
                break
            epoch, done = epoch + 1, -len(mine)
        batches.append(mine)
        trainer.fit_loop.epoch_progress.current.ready = epoch + 1
        trainer.fit_loop.epoch_loop.batch_progress.current.processed = done + wanted
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
def test_no_window_is_read_twice_in_an_epoch_and_all_come_in_the_order_of_one_process(shards: Path, parts: list[Part]):
    seen, state = [], None
    for part in parts:
        rows, state = read(shards, part, state)
        seen += rows
    row_of = {epoch: [] for epoch in range(9)}
    epoch = 0
    for key, number, seed, draw in seen:
        if seed != window_seed([1, epoch, crc32(key.encode()), number]):
            epoch += 1
            assert seed == window_seed([1, epoch, crc32(key.encode()), number])
        row_of[epoch].append((key, number, seed, draw))
    assert epoch >= 2
    alone, _ = read(shards, Part(1, 0, 3 * (EPOCH // BATCH_SIZE)), None)
    whole = EPOCH // BATCH_SIZE * BATCH_SIZE
    for number in range(epoch):
        of_epoch, expected = row_of[number], alone[number * whole : (number + 1) * whole]
        assert of_epoch[:whole] == expected[: len(of_epoch)]
        assert set(Counter(of_epoch).values()) == {1}
        assert EPOCH - len(of_epoch) < BATCH_SIZE * max(part.ranks * part.accumulate for part in parts)
