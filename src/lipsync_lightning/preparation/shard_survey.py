"""What a folder of shards holds, and what is wrong with it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.diagnosis import SoundCheck, sound_duplicates
from lipsync_lightning.errors import BadMedia, BrokenShard, ClipMismatch, ClipTooShort, MissingShards
from lipsync_lightning.media.strips import GAP_COLOUR, film_strip
from lipsync_lightning.media.video import decode_window
from lipsync_lightning.preparation.ledger_survey import LedgerSurvey, kept_ids, survey_ledger
from lipsync_lightning.preparation.runner import WORK
from lipsync_lightning.shards.format import SPLITS, Sidecar, shard_paths
from lipsync_lightning.shards.reader import MEMBERS, ClipIndex
from lipsync_lightning.shards.verify import verify_shard

NUM_SOUNDS = 256  # clips whose sounds are compared, each with each: some seconds
NUM_PICTURES = 48
_COLUMNS = 8  # of the contact sheet
_MOST_SIDE = 128  # pixels of one picture in it


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong."""

    where: str  # shard, or part of the data set
    reason: str
    told: str


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitSurvey:
    """What the whole shards of one split hold."""

    name: str
    num_shards: int  # damaged ones too, which count for nothing else
    num_bad_shards: int
    num_sources: int
    num_people: int  # each followed through one source: somebody in two sources counts twice
    seconds: NDArray[np.float64]  # (clips,): how long each is
    num_bytes: int

    @property
    def num_clips(self) -> int:
        return len(self.seconds)

    @property
    def hours(self) -> float:
        return float(self.seconds.sum()) / 3600

    @property
    def bytes_per_second(self) -> float:
        """Of clip. NaN without clips."""
        return self.num_bytes / float(self.seconds.sum()) if self.num_clips else float("nan")


@dataclass(frozen=True, kw_only=True, eq=False)
class ContactSheet:
    """The middle frames of some clips."""

    picture: NDArray[np.uint8] | None  # (H, W, 3) RGB; None without clips
    num_columns: int
    ids: list[str] = field(default_factory=list)  # from left to right, then from top to bottom


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardSurvey:
    """All that is known of a folder of shards."""

    folder: Path
    clip: ClipSpec | None  # None without a whole shard
    splits: list[SplitSurvey]
    ledger: LedgerSurvey | None  # None without one
    sound: SoundCheck
    shared_sounds: list[list[str]]  # ids of different sources with the same sound
    sheet: ContactSheet
    faults: list[Fault]
    is_unfinished: bool  # there is work of a `prepare` that goes on, or was interrupted

    @property
    def num_clips(self) -> int:
        return sum(split.num_clips for split in self.splits)


def survey_shards(folder: Path) -> ShardSurvey:
    """Return what a folder of shards holds, having read every shard from end to end, and decoded only some clips. Nothing is written.

    Raises: MissingShards, if it is not one.
    """
    ledger, kept, faults = _ledger(folder)
    paths = {f"{split}/{path.name}": path for split in SPLITS for path in shard_paths(folder, split)}
    if ledger is None and not faults and not any(path.is_file() for path in paths.values()):
        raise MissingShards(
            f"no shard (.tar) in {' or '.join(str(folder / split) for split in SPLITS)}; inspect the folder that `prepare` wrote as out="
        )
    whole, damaged = read_through(paths)
    index_of_sounds, index_of_pictures = (
        ClipIndex(list(whole.values()), members=(member,)) for member in ("flac", "mp4")
    )
    sheet, undecodable = contact_sheet(index_of_pictures)
    sound = sound_duplicates(index_of_sounds, NUM_SOUNDS)
    faults += [*damaged, *against_ledger(kept, paths, whole), *ids_twice(whole), *in_both_splits(whole)]
    faults += [*(files_in_both_splits(ledger) if ledger else ()), *undecodable]
    return ShardSurvey(
        folder=folder,
        clip=next((shard.clip for shard in whole.values()), None),
        splits=[survey_split(split, paths, whole) for split in SPLITS],
        ledger=ledger,
        sound=sound,
        shared_sounds=[group for group in sound.shared if len({source_of(key) for key in group}) > 1],
        sheet=sheet,
        faults=faults,
        is_unfinished=(folder / WORK).is_dir(),
    )


def read_through(paths: Mapping[str, Path]) -> tuple[dict[str, Sidecar], list[Fault]]:
    """Read shards (by name, such as train/000000.tar) from end to end, and return those that are whole, and what is wrong with the others.

    Whole: names, sizes and sha256 are those of the sidecar, no clip lacks picture, sound or facts, and all were made for the same clip.
    """
    whole: dict[str, Sidecar] = {}
    faults: list[Fault] = []
    for name, path in tqdm(paths.items(), desc="inspect", unit="shard", dynamic_ncols=True):
        try:
            shard = _whole_shard(path)
            first = next(iter(whole.values()), shard)
            shard.clip.require_same_recording(first.clip, path, first.path)
            whole[name] = shard
        except BrokenShard as fault:
            faults.append(Fault(where=name, reason=fault.reason, told=str(fault)))
        except ClipMismatch as mismatch:
            faults.append(Fault(where=name, reason="another clip", told=str(mismatch)))
    return whole, faults


def against_ledger(
    kept: Iterable[tuple[str, set[str]]], paths: Mapping[str, Path], whole: Mapping[str, Sidecar]
) -> list[Fault]:
    """Return where shards do not hold what the ledger says was kept.

    Args: kept: shards, such as train/000000, with the ids of their clips.
    """
    faults = []
    for shard, ids in kept:
        name = f"{shard}.tar"
        if name not in paths:
            told = f"by the ledger it holds {len(ids)} clips, neither it nor its sidecar is there; copy it, or run `prepare` again"
            faults.append(Fault(where=name, reason="missing", told=told))
        elif name in whole:
            differing = sorted(ids ^ set(whole[name].keys.tolist()))
            if differing:
                told = (
                    f"{len(differing)} clips are only in one of the ledger and the shard, the first is {differing[0]}"
                )
                faults.append(
                    Fault(where=name, reason="not as in the ledger", told=f"{told}; copy both from the same place")
                )
    return faults


def ids_twice(whole: Mapping[str, Sidecar]) -> list[Fault]:
    """Return which shards have ids in common."""
    first_shard: dict[str, str] = {}
    again: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, shard in whole.items():
        for key in shard.keys.tolist():
            first = first_shard.setdefault(key, name)
            if first != name:
                again[first, name].append(key)
    return [
        Fault(
            where=name,
            reason="there twice",
            told=f"{len(keys)} of its ids are also in {first}, such as {keys[0]}; delete one of the two",
        )
        for (first, name), keys in again.items()
    ]


def in_both_splits(whole: Mapping[str, Sidecar]) -> list[Fault]:
    """Return whether sources stand in both splits, which would make every evaluation look better than it is."""
    sources: dict[str, set[str]] = {split: set() for split in SPLITS}
    for name, shard in whole.items():
        sources[name.split("/")[0]].update(source_of(key) for key in shard.keys.tolist())
    both = sorted(set.intersection(*sources.values()))
    if not both:
        return []
    return [_not_apart(f"{len(both)} sources stand in both: {_first_few(both)}")]


def files_in_both_splits(ledger: LedgerSurvey) -> list[Fault]:
    """Return whether clips of both splits come from files with the same bytes, under whatever names."""
    both = [" = ".join(names) for names in ledger.shared_files.in_both_splits]
    return [_not_apart(f"{len(both)} files stand in both under several names: {_first_few(both)}")] if both else []


def survey_split(split: str, paths: Mapping[str, Path], whole: Mapping[str, Sidecar]) -> SplitSurvey:
    """Return what the whole shards of a split hold."""
    names = [name for name in paths if name.startswith(f"{split}/")]
    shards = [whole[name] for name in names if name in whole]
    keys = [key for shard in shards for key in shard.keys.tolist()]
    return SplitSurvey(
        name=split,
        num_shards=len(names),
        num_bad_shards=len(names) - len(shards),
        num_sources=len({source_of(key) for key in keys}),
        num_people=len({(source_of(key), key.rpartition("-")[2]) for key in keys}),
        seconds=np.concatenate([np.zeros(0), *(shard.num_frames / shard.clip.fps for shard in shards)]),
        num_bytes=sum(shard.num_bytes for shard in shards),
    )


def contact_sheet(index: ClipIndex) -> tuple[ContactSheet, list[Fault]]:
    """Return the middle frames of clips spread evenly over the index, of each only the one decoded, and what could not be decoded."""
    pictures: dict[str, np.ndarray] = {}
    faults: list[Fault] = []
    for number in np.linspace(0, len(index) - 1, min(NUM_PICTURES, len(index))).round().astype(int).tolist():
        key = str(index.keys[number])
        try:
            frame = decode_window(index.read(number)["mp4"], int(index.num_frames[number]) // 2, 1)[0]
            side = min(_MOST_SIDE, max(frame.shape[:2]))
            pictures[key] = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)
        except (BadMedia, ClipTooShort, BrokenShard) as error:
            reason = error.reason if isinstance(error, BrokenShard) else "undecodable"
            faults.append(Fault(where=index.shards[index.shard_of[number]].name, reason=reason, told=f"{key}: {error}"))
    return ContactSheet(picture=_grid(list(pictures.values())), num_columns=_COLUMNS, ids=list(pictures)), faults


def source_of(key: str) -> str:
    """Return data set and source of a clip's id (`preparation.recipe.clip_id`)."""
    return key.rpartition("/")[0]


def _not_apart(told: str) -> Fault:
    return Fault(
        where=" and ".join(SPLITS), reason="not apart", told=f"{told}; prepare into an empty folder, with one split"
    )


def _first_few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _grid(pictures: Sequence[np.ndarray]) -> NDArray[np.uint8] | None:
    if not pictures:
        return None
    num_columns = min(_COLUMNS, len(pictures))
    empty = np.full_like(pictures[0], GAP_COLOUR)
    filled = [*pictures, *[empty] * (-len(pictures) % num_columns)]
    return film_strip(
        [np.stack(filled[start : start + num_columns]) for start in range(0, len(filled), num_columns)], num_columns
    )


def _whole_shard(path: Path) -> Sidecar:
    sidecar = verify_shard(path)
    sidecar.require_members(MEMBERS)
    return sidecar


def _ledger(folder: Path) -> tuple[LedgerSurvey | None, Iterable[tuple[str, set[str]]], list[Fault]]:
    """Return what the ledger says, and of which clips it says that they were kept."""
    try:
        found = survey_ledger(folder)
    except BrokenShard as error:
        return None, (), [Fault(where="ledger", reason="corrupt", told=str(error))]
    return (found, kept_ids(folder), []) if found.totals.num_sources else (None, (), [])
