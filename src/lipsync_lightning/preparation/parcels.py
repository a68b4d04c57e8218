"""What was made of one source, on disk.

A small tar that is there whole or not at all, so that no interruption costs more than one source.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from lipsync_lightning.preparation.ledger import Row
from lipsync_lightning.preparation.one_source import Outcome
from lipsync_lightning.shards.format import FinishedClip

_ROWS = "rows.json"


@dataclass(frozen=True)
class Parcel:
    """The parcel of one source."""

    path: Path

    def write(self, outcomes: Iterable[Outcome], fingerprint: str) -> None:
        """Write rows and clips, replacing a former parcel."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: a worker that was given up for lost may still be writing the same parcel.
        with NamedTemporaryFile(dir=self.path.parent, suffix=".part", delete=False) as part:
            pass
        rows = []
        with tarfile.open(part.name, "w", format=tarfile.PAX_FORMAT) as archive:
            for number, (row, clip) in enumerate(outcomes):
                rows.append(row.as_dict())
                for suffix, data in ({} if clip is None else clip.members).items():
                    _add(archive, f"{number}/{suffix}", data)
            _add(archive, _ROWS, json.dumps({"fingerprint": fingerprint, "rows": rows}).encode())
        Path(part.name).replace(self.path)

    def rows(self, fingerprint: str) -> list[Row] | None:
        """Return the rows, or None if there is no whole parcel that was made by steps of this fingerprint."""
        try:
            with tarfile.open(self.path) as archive:
                content = archive.extractfile(_ROWS)
                stored = json.loads(content.read()) if content else {}
        except (OSError, KeyError, ValueError, tarfile.TarError):
            return None
        return [Row.from_dict(row) for row in stored["rows"]] if stored.get("fingerprint") == fingerprint else None

    def clips(self, rows: list[Row]) -> Iterator[FinishedClip]:
        """Yield the clips that were kept, one at a time."""
        with tarfile.open(self.path) as archive:
            members: dict[int, dict[str, tarfile.TarInfo]] = {}
            for member in archive:
                number, _, suffix = member.name.partition("/")
                if suffix:
                    members.setdefault(int(number), {})[suffix] = member
            for number, row in enumerate(rows):
                if row.is_kept_clip:
                    data = {suffix: _read(archive, member) for suffix, member in members[number].items()}
                    yield FinishedClip(str(row.id), int(row.num_frames or 0), data)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member)
    assert content is not None  # a regular file
    return content.read()
