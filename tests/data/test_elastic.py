"""A run that goes on with another number of processes or workers reads every window of an epoch once: real shards, real loaders."""

from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from zlib import crc32

import pytest

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.data.samples import SyncNetSamples
from lipsync_lightning.data.windows import _seed
from lipsync_lightning.shards.format import find_shards
from lipsync_lightning.shards.reader import ClipIndex
from tiny_media import prepared, sound_of, write_video

CLIP = ClipSpec(num_frames=4, fps=25, resolution=32, sample_rate_hz=16000, mel_hz=80, num_mels=80)
SEED = 1
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
    folder = tmp_path_factory.mktemp("elastic shards")
    for index in range(NUM_CLIPS):
        write_video(
            folder / "raw" / f"person {index}.mp4",
            26 + index % 3,
            sound_of(26 + index % 3, loud=range(index, index + 4)),
        )
    prepared(folder / "raw", folder / "shards", CLIP, sources_per_shard=2)
    return folder / "shards"


@pytest.fixture(scope="module")
def window_of_seed(shards: Path) -> dict[int, tuple[int, str, int]]:
    """Epoch, clip and number of the window that brings a seed."""
    keys = [str(key) for key in ClipIndex(find_shards(str(shards), "train", CLIP)).keys]
    every = [(epoch, key, number) for epoch in range(6) for key in keys for number in range(WINDOWS_PER_CLIP)]
    found = {_seed([SEED, epoch, crc32(key.encode()), number]): (epoch, key, number) for epoch, key, number in every}
    assert len(found) == len(every)
    return found


def data_of(shards: Path, workers: int, state: dict[str, Any] | None, trainer: Any) -> ClipDataModule:
    samples = SyncNetSamples(clip=CLIP, windows_per_clip=WINDOWS_PER_CLIP, min_gap_frames=2)
    data = ClipDataModule(
        shards=str(shards), clip=CLIP, samples=samples, batch_size=BATCH_SIZE, num_workers=workers, seed=SEED, shuffle_buffer=3,
        max_bad_clips=0,
    )  # fmt: skip
    data.trainer = trainer
    if state is not None:
        data.load_state_dict(state)
    return data


def read(
    shards: Path, part: Part, state: dict[str, Any] | None, window_of_seed: dict
) -> tuple[list[tuple], dict[str, Any]]:
    """Return the windows that all ranks read, step after step, and the state that the checkpoint after them holds."""
    begun_at = state["global_step"] if state else 0
    batches, states = [], []
    for rank in range(part.ranks):
        trainer = SimpleNamespace(
            global_rank=rank, world_size=part.ranks, global_step=begun_at, accumulate_grad_batches=part.accumulate
        )  # fmt: skip
        data = data_of(shards, part.workers, state, trainer)
        batches.append(list(islice(data.train_dataloader(), part.steps * part.accumulate)))
        trainer.global_step = begun_at + part.steps
        states.append(data.state_dict())
    assert all(other == states[0] for other in states)
    seen = []
    for of_ranks in zip(*batches, strict=True):
        for batch in of_ranks:
            windows = [window_of_seed[int(seed)] for seed in batch["seed"]]
            assert [window[1] for window in windows] == batch["id"]
            seen += windows
    return seen, states[0]


PATHS = {
    "2, 1, 3 processes": [Part(2, 1, 3), Part(1, 0, 3), Part(3, 2, 4), Part(1, 3, 8)],
    "3, 2 processes in the middle of a clip": [Part(3, 1, 1), Part(2, 1, 5), Part(3, 0, 5)],
    "half the processes, twice the batches a step": [
        Part(2, 1, 4),
        Part(1, 1, 4, accumulate=2),
        Part(2, 0, 3),
        Part(3, 1, 2, accumulate=2),
    ],
    "other workers only": [Part(1, 0, 5), Part(1, 2, 6), Part(1, 1, 12)],
}


@pytest.mark.parametrize("parts", PATHS.values(), ids=PATHS)
def test_no_window_is_read_twice_and_none_is_lost(shards: Path, window_of_seed: dict, parts: list[Part]):
    seen, state = [], None
    for part in parts:
        windows, state = read(shards, part, state, window_of_seed)
        seen += windows
    assert state["windows_read"] == len(seen)
    assert state["global_step"] == sum(part.steps for part in parts)
    whole_epochs = len(seen) // EPOCH
    assert whole_epochs >= 2
    counted = Counter(epoch for epoch, _, _ in seen)
    assert [counted[epoch] for epoch in range(whole_epochs)] == [EPOCH] * whole_epochs
    assert set(Counter(seen).values()) == {1}


def test_whatever_the_path_the_windows_come_in_the_same_order(shards: Path, window_of_seed: dict):
    alone, _ = read(shards, Part(1, 0, 2 * EPOCH // BATCH_SIZE), None, window_of_seed)
    seen, state = [], None
    for part in PATHS["2, 1, 3 processes"]:
        windows, state = read(shards, part, state, window_of_seed)
        seen += windows
    assert seen[: len(alone)] == alone[: len(seen)]
