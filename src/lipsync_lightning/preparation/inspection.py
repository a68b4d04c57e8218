"""What a folder of shards holds, whether it is whole, and how its faces look: in the terminal and as a page."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadMedia, BrokenShard, ClipMismatch, ClipTooShort, MissingShards
from lipsync_lightning.evaluation.page import Picture, Table, write_page
from lipsync_lightning.media.strips import film_strip, save_png
from lipsync_lightning.media.video import decode_windows
from lipsync_lightning.preparation.ledger import FAILED, KEPT, REJECTED, SCORES, Row, read_ledger, totals
from lipsync_lightning.shards.format import SPLITS, Sidecar, shard_paths
from lipsync_lightning.shards.reader import ClipIndex
from lipsync_lightning.shards.verify import verify_shard

_CLIPS_SHOWN, _MOMENTS_SHOWN = 8, 8  # of each split
_MOST_REASONS = 12
# What differs from one source to the next: numbers, paths and file names.
_PARTICULAR = re.compile(r"[^\s,;:()]*(?:\d|[/\\]|\w\.\w)[^\s,;:()]*")


def inspect_shards(folder: Path) -> Path:
    """Read every shard from end to end, print what they hold and what is wrong, and return a page that shows it too.

    Raises: MissingShards, if there are none; BrokenShard, after all that, if anything is wrong.
    """
    paths = {f"{split}/{path.stem}": path for split in SPLITS for path in shard_paths(folder, split)}
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
    faults += _not_apart(shards)
    pictures = []
    for split in SPLITS:
        strip, undecodable = _faces([paths[name] for name in shards if name.startswith(split)], split)
        faults += undecodable
        if strip is not None:
            image = folder / "inspection" / f"{split}.png"
            save_png(image, strip)
            pictures.append(Picture(title=f"{split}: clips from left to right", image=image))
    splits = _splits_table(paths, shards)
    further = [
        (title, table)
        for title, table in (
            ("Ledger", _totals_table(rows)),
            ("Not kept", _reasons_table(rows)),
            ("Scores", _scores_table(rows)),
        )
        if table.rows
    ]
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
