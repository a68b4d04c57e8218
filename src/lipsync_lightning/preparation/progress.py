"""How a run of `prepare` gets on."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from lipsync_lightning.preparation.ledger import CLIP, KEPT, SOURCE, Row

_MOST_STEPS = 3  # that are told of, of sources and of clips


class Progress:
    """A bar of sources with the time left, clips per second, and the share that each step rejected: of sources, and of clips."""

    def __init__(self, name: str, num_sources: int) -> None:
        """Args: num_sources: that this run works on, or finds worked on by one that was interrupted."""
        # smoothing: the rate over the whole run, for sources differ in length: the last few say little of the time left.
        # miniters: or the bar would wait for as many sources as were skipped in one go.
        self._bar = tqdm(
            total=num_sources, desc=f"prepare {name}", unit="source", dynamic_ncols=True, smoothing=0, miniters=1
        )
        self._num_kept = 0
        self._lost: dict[str, Counter[str]] = {SOURCE: Counter(), CLIP: Counter()}  # by step
        self._num_sources = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def skip(self, num_sources: int) -> None:
        """Count what an earlier run has done; it says nothing about the time left."""
        self._bar.initial += num_sources
        self._bar.update(num_sources)

    def count(self, rows: Sequence[Row]) -> None:
        """Count one source that has just been worked on."""
        clips = [row for row in rows if row.kind == CLIP]
        self._num_sources += 1
        self._num_kept += sum(row.verdict == KEPT for row in clips)
        # A source with clips is told of by those.
        self._lost[CLIP if clips else SOURCE].update(str(row.step) for row in clips or rows if row.verdict != KEPT)
        self._bar.set_postfix_str(self.told(self._bar.format_dict["elapsed"]), refresh=False)
        self._bar.update()

    def told(self, seconds: float) -> str:
        """Return what stands behind the bar after so many seconds."""
        speed = f"{self._num_kept} clips, {self._num_kept / max(seconds, 1e-9):.2f}/s"
        totals = {SOURCE: self._num_sources, CLIP: self._num_kept + self._lost[CLIP].total()}
        lost = [
            f"rejected {kind}s: {_shares(self._lost[kind], total)}"
            for kind, total in totals.items()
            if self._lost[kind]
        ]
        return "; ".join([speed, *lost])


def _shares(counts: Counter[str], total: int) -> str:
    return ", ".join(f"{count / total:.0%} {step}" for step, count in counts.most_common(_MOST_STEPS))
