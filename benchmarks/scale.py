"""`python benchmarks/scale.py [sources]`: what a data set of many sources costs besides its media, in time and memory.

Every source is an empty file of its own size; in place of the steps an executor writes shards of five clips of a few
bytes for each source, one of which was rejected. Plan, shards, sidecars, ledger, resuming and the loader's index are
the real ones. Each row is a process of its own, so that its peak of resident memory is its own too.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.data.samples import Lips, SyncNetSamples
from lipsync_lightning.media.people import SidecarPeople
from lipsync_lightning.preparation.filters.check import Check
from lipsync_lightning.preparation.ledger import CLIP, KEPT, REJECTED, SOURCE, Row, write_piece
from lipsync_lightning.preparation.recipe import Recipe, clip_id
from lipsync_lightning.preparation.runner import prepare
from lipsync_lightning.preparation.shard_job import ShardJob, ShardTask
from lipsync_lightning.preparation.sources.folder import FolderSources
from lipsync_lightning.preparation.split import SplitByHash
from lipsync_lightning.shards.format import FinishedClip, write_shard

SPEC = ClipSpec(num_frames=16, fps=25, resolution=256, sample_rate_hz=16000, mel_hz=80, num_mels=80)
CLIPS_PER_SOURCE, SOURCES_PER_FOLDER, NUM_FRAMES = 5, 1000, 200


class MadeUpShards:
    """An executor that works on no source."""

    def map(self, job: ShardJob, tasks: Sequence[ShardTask]) -> Iterator[ShardTask]:
        for task in tasks:
            rows, kept = [], []
            for planned in task.sources:
                source = planned.source
                known: dict[str, Any] = {"source": source.name, "split": task.name.split("/")[0], "shard": task.name}
                for number in range(CLIPS_PER_SOURCE):
                    key = clip_id(job.recipe.name, source.name, number * NUM_FRAMES, 0)
                    members = {"mp4": key.encode(), "flac": key.encode(), "json": b"{}"}
                    verdict = KEPT if number else REJECTED
                    scores = {"sync_confidence": 5.1, "sync_offset": 0.0, "visual_quality": 61.2}
                    rows.append(Row(kind=CLIP, verdict=verdict, id=key, num_frames=NUM_FRAMES, scores=scores, **known))
                    kept += [FinishedClip(key, NUM_FRAMES, members)] if number else []
                rows.append(Row(kind=SOURCE, verdict=KEPT, sha256=planned.sha256, num_bytes=planned.num_bytes, **known))
            write_shard(job.out / f"{task.name}.tar", kept, clip=job.clip)
            write_piece(job.out, task.name, rows)
            yield task


def prepared(folder: Path) -> str:
    source = str(folder / "raw")
    recipe = Recipe(
        name="many",
        source=source,
        sources=FolderSources(root=source),
        split=SplitByHash(num_heldout=100, identity=".+"),
        check=Check(min_seconds=2, min_fps=10, min_side=32, min_dbfs=-60),
        shots=None,
        people=SidecarPeople(),
        min_seconds=2,
        max_seconds=10,
        sync=None,
        quality=None,
    )
    found = prepare(recipe, SPEC, folder / "out", sources_per_shard=16, executor=MadeUpShards())
    return f"{found.clips[KEPT]} clips"


def indexed(folder: Path) -> str:
    samples: Any = SyncNetSamples(clip=SPEC, windows_per_clip=4, min_gap_frames=8, sees=Lips())
    settings: dict[str, Any] = {"batch_size": 64, "num_workers": 0, "seed": 1, "shuffle_buffer": 1024}
    data = ClipDataModule(shards=str(folder / "out"), clip=SPEC, samples=samples, max_bad_clips=0, **settings)
    batches: Any = data.train_dataloader().batch_sampler
    return f"{data.epoch_length} windows an epoch, {len(list(islice(batches, 1000)))} batches of the order drawn"


def read_by_anyone(folder: Path) -> str:
    return f"{pq.read_table(folder / 'out' / 'ledger').num_rows} rows"


def measured(work: Callable[[Path], str], folder: Path) -> tuple[float, float, str]:
    """Return the seconds that a piece of work takes, this process's peak of memory in GiB, and what it found."""
    started = time.perf_counter()
    found = work(folder)
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, found


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    works = {
        "`prepare`, all but the steps": prepared,
        "`prepare` again, nothing left to do": prepared,
        "index and order of training": indexed,
        "the ledger as an Arrow table": read_by_anyone,
    }
    with tempfile.TemporaryDirectory() as name:
        for number in range(count):
            path = Path(name, "raw", f"person {number // SOURCES_PER_FOLDER:04d}", f"{number:08d}.mp4")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.truncate(number + 1)  # takes no room on most file systems
        print(f"{count} sources\n\n| what | seconds | µs per source | peak memory, GiB | found |")
        print("| --- | ---: | ---: | ---: | --- |")
        for what, work in works.items():
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                seconds, peak, found = pool.submit(measured, work, Path(name)).result()
            print(f"| {what} | {seconds:.0f} | {seconds / count * 1e6:.0f} | {peak:.2f} | {found} |", flush=True)


if __name__ == "__main__":
    main()
