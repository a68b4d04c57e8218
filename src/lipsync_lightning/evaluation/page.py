"""The one page of every report: a table first, then pictures, then curves, then the rest folded."""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from lipsync_lightning.files import write_atomically

MOST_BYTES = 10_000_000  # of a page; pictures that do not fit are linked


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells ready to be shown: one row for each metric, one column for each system, or any other table."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_labels: int = 1  # leading columns that hold words
    total: Sequence[str] = ()  # a last row
    marks: Mapping[tuple[int, int], str] = field(default_factory=dict)  # (row, column) -> "best", "reached" or "missed"

    def lines(self) -> list[str]:
        """Return the table as plain text, words to the left and numbers to the right."""
        rows = [row for row in (self.columns, *self.rows, self.total) if row]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        aligned = [str.ljust] * self.num_labels + [str.rjust] * (len(widths) - self.num_labels)
        return [
            "  ".join(align(cell, width) for align, cell, width in zip(aligned, row, widths, strict=True)).rstrip()
            for row in rows
        ]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Something to look at."""

    title: str
    image: Path | None = None  # png or jpg; it becomes part of the page where there is room
    video: Path | None = None  # mp4, which stays beside the page
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A drawing, from `curves.panel`, and how to read it."""

    svg: Markup
    caption: str = ""


Detail = tuple[str, Table | str | Sequence[Picture | Curve]]  # a heading, and what unfolds below it


def write_page(
    out: Path,
    *,
    title: str,
    intro: str = "",
    table: Table | None = None,
    pictures: Sequence[Picture] = (),
    curves: Sequence[Curve] = (),
    details: Sequence[Detail] = (),
) -> Path:
    """Write one HTML page, whole or not at all, and return its path.

    The page needs no script and no network. Pictures are part of it until it reaches `MOST_BYTES`, later ones are
    linked; videos are always linked, by paths relative to the page. Text can never become markup.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )

    def link(path: Path) -> str:
        return quote(Path(os.path.relpath(path.resolve(), out.parent.resolve())).as_posix())

    content = {"table": table, "pictures": pictures, "curves": curves, "details": details}
    fill = partial(environment.get_template("page.html.j2").render, title=title, intro=intro, link=link, **content)
    room = MOST_BYTES - len(fill(embed=link).encode())

    def embed(path: Path) -> str:
        """Return the picture itself as an address, or a link where the page has no room left for it."""
        nonlocal room
        kind = "png" if path.suffix == ".png" else "jpeg"
        address = f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        if len(address) > room:
            return link(path)
        room -= len(address)
        return address

    return write_atomically(out, fill(embed=embed).encode())
