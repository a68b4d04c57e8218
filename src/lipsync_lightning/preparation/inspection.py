"""What a folder of shards holds, whether it is whole, and how its faces look: in the terminal and as a page."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lipsync_lightning.errors import BadMedia, BrokenShard, ClipMismatch, ClipTooShort, MissingShards
from lipsync_lightning.evaluation.page import Picture, Table, write_page
from lipsync_lightning.media.clips import decode_planes
from lipsync_lightning.media.strips import film_strip, save_png
from lipsync_lightning.preparation.ledger import KEPT, REJECTED, SCORES, Row, read_ledger
from lipsync_lightning.shards.format import SPLITS, Sidecar, not_prepared
from lipsync_lightning.shards.reader import MEMBERS, ClipIndex
from lipsync_lightning.shards.verify import verify_shard

_CLIPS_SHOWN, _MOMENTS_SHOWN = 8, 8  # of each split
# What differs from one source to the next: numbers, paths and file names.
_PARTICULAR = re.compile(r"[^\s,;:()]*(?:\d|[/\\]|\w\.\w)[^\s,;:()]*")


def inspect_shards(folder: Path) -> Path:
    """Read every shard from end to end, print what they hold and what is wrong, and return a page that shows it too.

    Raises: MissingShards, if there are none; BrokenShard, after all that, if anything is wrong.
    """
    files = [file for split in SPLITS for suffix in ("tar", "json") for file in (folder / split).glob(f"*.{suffix}")]
    files.sort(key=lambda file: (SPLITS.index(file.parent.name), file.stem))
    paths = {f"{file.parent.name}/{file.stem}": file.with_suffix(".tar") for file in files}
    if not any((folder / split).is_dir() for split in SPLITS):
        raise not_prepared(folder)
    if not paths:
        raise MissingShards(f"no shard (.tar) in {folder}; inspect the folder that `prepare` wrote as out=")
    shards, faults = _read_through(paths)
    rows: list[Row] = []
    try:
        rows = list(read_ledger(folder))
    except BrokenShard as error:
        faults.append(f"ledger: {error}")
    if rows:
        faults += _against_ledger(rows, paths, shards)
    pictures = []
    for split in SPLITS:
        strip, undecodable = _faces([shard for name, shard in shards.items() if name.startswith(split)])
        faults += undecodable
        if strip is not None:
            image = folder / "inspection" / f"{split}.png"
            save_png(image, strip)
            pictures.append(Picture(title=f"{split}: clips from left to right", image=image))
    splits = _splits_table(paths, shards)
    further = _ledger_tables(rows) if rows else []
    whole = "broken" if faults else "whole: every shard was read from end to end"
    lines = [*splits.lines(), *(line for _, table in further for line in ("", *table.lines())), "", whole]
    print("\n".join([*lines, *(f"BROKEN {fault}" for fault in faults)]))
    page = write_page(
        folder / "inspection" / "index.html",
        title=folder.resolve().name,
        intro=whole,
        table=splits,
        pictures=pictures,
        details=[*((f"Broken: {fault.split(':')[0]}", fault) for fault in faults), *further],
    )
    if faults:
        raise BrokenShard(f"{folder}: {len(faults)} faults, the first is: {faults[0]}")
    return page


def _read_through(paths: Mapping[str, Path]) -> tuple[dict[str, Sidecar], list[str]]:
    """Return the shards that are whole, by name, and what is wrong with the others."""
    shards: dict[str, Sidecar] = {}
    faults: list[str] = []
    shard_of: dict[str, str] = {}  # by id of a clip
    for name, path in tqdm(paths.items(), desc="inspect", unit="shard", dynamic_ncols=True):
        try:
            shard = verify_shard(path)
            shard.require_members(MEMBERS)
            first = next(iter(shards.values()), shard)
            shard.clip.require_same_recording(first.clip, path, first.location)
        except (BrokenShard, ClipMismatch) as error:
            faults.append(f"{name}: {error}")
            continue
        shards[name] = shard
        again = [key for key in shard.keys.tolist() if shard_of.setdefault(key, name) != name]
        if again:
            told = f"{len(again)} of its ids are also in {shard_of[again[0]]}, such as {again[0]}"
            faults.append(f"{name}: {told}; delete one of the two")
    return shards, faults


def _against_ledger(rows: Sequence[Row], paths: Mapping[str, Path], shards: Mapping[str, Sidecar]) -> list[str]:
    """Return where shards do not hold what the ledger says was kept."""
    kept: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.is_kept_clip:
            kept[row.shard].add(str(row.id))
    faults = []
    for name in sorted(kept.keys() | shards.keys()):
        if name not in paths:
            told = f"the ledger says it holds {len(kept[name])} clips, it is missing"
            faults.append(f"{name}: {told}; run `prepare` again")
        elif name in shards and (differing := sorted(kept[name].symmetric_difference(shards[name].keys.tolist()))):
            told = f"{len(differing)} clips are only in one of the ledger and the shard, the first is {differing[0]}"
            faults.append(f"{name}: {told}; copy both from the same place")
    return faults


def _faces(shards: Sequence[Sidecar]) -> tuple[np.ndarray | None, list[str]]:
    """Return moments of clips spread evenly over some shards, one clip a row, and which of these cannot be decoded."""
    index = ClipIndex(shards, members=("mp4",))
    videos, faults = [], []
    for number in np.linspace(0, len(index) - 1, min(_CLIPS_SHOWN, len(index))).round().astype(int).tolist():
        last_frame = int(index.num_frames[number]) - 1
        moments = np.linspace(0, last_frame, _MOMENTS_SHOWN).round().astype(int).tolist()
        try:
            mp4 = index.read(number)["mp4"]
            videos.append(np.concatenate(decode_planes(mp4, moments, 1)).transpose(0, 2, 3, 1))
        except (BadMedia, ClipTooShort, BrokenShard) as error:
            faults.append(f"{index.shards[index.shard_of[number]].name}: {index.keys[number]}: {error}")
    return (film_strip(videos, _MOMENTS_SHOWN) if videos else None), faults


def _splits_table(paths: Mapping[str, Path], shards: Mapping[str, Sidecar]) -> Table:
    rows = []
    for split in SPLITS:
        names = [name for name in paths if name.startswith(split)]
        whole = [shards[name] for name in names if name in shards]
        seconds = np.concatenate([[], *(shard.num_frames / shard.clip.fps for shard in whole)])
        sources = {key.rpartition("/")[0] for shard in whole for key in shard.keys.tolist()}
        lengths = [f"{each:.1f}" for each in np.quantile(seconds, (0, 0.5, 1))] if len(seconds) else [""] * 3
        size = f"{sum(shard.num_bytes for shard in whole) / 1e9:.2f}"
        counts = [len(names), len(names) - len(whole), len(seconds), len(sources)]
        rows.append([split, *map(str, counts), f"{seconds.sum() / 3600:.2f}", *lengths, size])
    columns = ["split", "shards", "broken", "clips", "sources", "hours", "shortest s", "median s", "longest s", "GB"]
    return Table(columns=columns, rows=rows)


def _ledger_tables(rows: Sequence[Row]) -> list[tuple[str, Table]]:
    """Return titles and tables: what sources and clips came to and why, and how clips were scored."""
    came_to = Counter[tuple[str, ...]]()
    for row in rows:  # without what differs between sources: numbers, names, the way out
        reason = (row.reason or "").rpartition(f"{row.source}: ")[2].split(";")[0]
        came_to[row.kind, row.verdict, row.step or "", _PARTICULAR.sub("…", reason)] += 1
    counts = [[*words, str(count)] for words, count in came_to.most_common()]
    quantiles = []
    for score, verdict in product(SCORES, (KEPT, REJECTED)):
        values = [row.scores[score] for row in rows if row.verdict == verdict and score in row.scores]
        if values:
            cells = (f"{each:.2f}" for each in np.nanquantile(values, (0.05, 0.5, 0.95)))
            quantiles.append([score.replace("_", " "), verdict, str(len(values)), *cells])
    tables = [("Ledger", Table(columns=["ledger", "verdict", "step", "because", "times"], rows=counts, num_labels=4))]
    if quantiles:
        columns = ["score", "clips", "number", "5 %", "median", "95 %"]
        tables.append(("Scores", Table(columns=columns, rows=quantiles, num_labels=2)))
    return tables
