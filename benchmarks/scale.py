"""`python benchmarks/scale.py [sources]`: what a data set of many sources costs besides its media: time and memory of the bookkeeping.

Media are left out: every source is an empty file of its own size, and in place of the steps an executor writes parcels of five clips of
a few bytes. Plan, parcels, shards, sidecars, ledger, resuming and the loader's index are the real ones. Each row is a process of its own,
so that its peak of resident memory is its own too.
"""

import hashlib
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.data.samples import SyncNetSamples
from lipsync_lightning.media.people import SidecarPeople
from lipsync_lightning.preparation.executors import Job, SourceTask
from lipsync_lightning.preparation.filters.check import Check
from lipsync_lightning.preparation.filters.quality import NoQualityFilter
from lipsync_lightning.preparation.filters.shots import NoShots
from lipsync_lightning.preparation.filters.sync import NoSyncFilter
from lipsync_lightning.preparation.ledger import CLIP, KEPT, REJECTED, SOURCE, Row
from lipsync_lightning.preparation.one_source import Outcome
from lipsync_lightning.preparation.recipe import Recipe, clip_id
from lipsync_lightning.preparation.runner import prepare
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.preparation.sources.folder import FolderSources
from lipsync_lightning.preparation.split import SplitByHash
from lipsync_lightning.shards.format import FinishedClip

CLIP_SPEC = ClipSpec(num_frames=16, fps=25, resolution=256, sample_rate_hz=16000, mel_hz=80, num_mels=80)
CLIPS_PER_SOURCE, SOURCES_PER_SHARD, SOURCES_PER_FOLDER = 5, 16, 1000
NUM_FRAMES = 200  # of a clip
NUM_ROWS_READ = 1000  # batches' worth of the order


class MadeUpParcels:
    """In place of steps: of each source five clips of a few bytes, one of which was rejected."""

    def work(self, job: Job, tasks: Sequence[SourceTask]) -> Iterator[SourceTask]:
        for task in tasks:
            task.parcel.write(outcomes(job, task.source), job.fingerprint(task))
            yield task


def outcomes(job: Job, source: Source) -> Iterator[Outcome]:
    scores = {"sync_confidence": 5.1, "sync_offset": 0.0, "sync_distance": 7.9, "visual_quality": 61.2}
    known: dict[str, Any] = {"source": source.name, "steps": job.versions}
    for number in range(CLIPS_PER_SOURCE):
        key = clip_id(job.recipe.name, source.name, number * NUM_FRAMES, 0)
        place: dict[str, Any] = {
            "id": key,
            "start_s": 8.0 * number,
            "stop_s": 8.0 * number + 8.0,
            "num_frames": NUM_FRAMES,
            "person": 0,
        }
        if number == 0:
            reason = "sync confidence 2.13, at least 3 needed"
            yield Row(kind=CLIP, verdict=REJECTED, step="sync", reason=reason, scores=scores, **known, **place), None
        else:
            members = {"mp4": key.encode(), "flac": key.encode(), "json": b"{}"}
            yield Row(kind=CLIP, verdict=KEPT, scores=scores, **known, **place), FinishedClip(key, NUM_FRAMES, members)
    digest = hashlib.sha256(source.name.encode()).hexdigest()
    yield Row(kind=SOURCE, verdict=KEPT, sha256=digest, num_bytes=1, start_s=0.0, **known), None


def make_sources(folder: Path, count: int) -> None:
    for number in range(count):
        path = folder / f"person {number // SOURCES_PER_FOLDER:04d}" / f"{number:08d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(number + 1)  # takes no room on most file systems


def prepared(folder: Path) -> str:
    source = folder / "raw"
    recipe = Recipe(
        name="many", source=str(source), sources=FolderSources(root=str(source)), split=SplitByHash(num_heldout=100, identity=".+"),
        check=Check(min_seconds=2, min_fps=10, min_side=32, min_dbfs=-60), shots=NoShots(), people=SidecarPeople(), min_seconds=2,
        max_seconds=10, sync=NoSyncFilter(), quality=NoQualityFilter(),
    )  # fmt: skip
    found = prepare(recipe, CLIP_SPEC, folder / "out", sources_per_shard=SOURCES_PER_SHARD, executor=MadeUpParcels())
    return f"{found.clips[KEPT]} clips"


def indexed(folder: Path) -> str:
    samples = SyncNetSamples(clip=CLIP_SPEC, windows_per_clip=4, min_gap_frames=8)
    settings: dict[str, Any] = {
        "num_workers": 0,
        "seed": 1,
        "shuffle_buffer": 1024,
        "max_bad_clips": 0,
        "batch_size": 64,
    }
    data = ClipDataModule(shards=str(folder / "out"), clip=CLIP_SPEC, samples=samples, **settings)
    batches: Any = data.train_dataloader().batch_sampler
    first = list(islice(batches, NUM_ROWS_READ))
    return f"{data.epoch_length} windows an epoch, {len(first)} batches of the order drawn"


def read_by_anyone(folder: Path) -> str:
    return f"{pq.read_table(folder / 'out' / 'ledger').num_rows} rows"


@dataclass(frozen=True)
class Cost:
    """What a piece of work took."""

    seconds: float
    peak_gib: float
    told: str


def _measured(work: Callable[[Path], str], folder: Path) -> Cost:
    started = time.perf_counter()
    told = work(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Cost(time.perf_counter() - started, peak, told)


def cost(work: Callable[[Path], str], folder: Path) -> Cost:
    """Return what a piece of work takes in a process of its own. Raises: what the work raises; BrokenProcessPool, if its process dies."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, work, folder).result()


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_sources(folder / "raw", count)
        works = {
            "`prepare`, all but the steps": prepared,
            "`prepare` again, nothing left to do": prepared,
            "index and order of training": indexed,
            "the ledger as an Arrow table": read_by_anyone,
        }
        print(
            f"{count} sources\n\n| what | seconds | µs per source | peak memory, GiB | found |\n| --- | ---: | ---: | ---: | --- |"
        )
        for what, work in works.items():
            found = cost(work, folder)
            print(
                f"| {what} | {found.seconds:.0f} | {found.seconds / count * 1e6:.0f} | {found.peak_gib:.2f} | {found.told} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
