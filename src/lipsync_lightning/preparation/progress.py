"""How a run of `prepare` gets on."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from lipsync_lightning.preparation.history import History
from lipsync_lightning.preparation.ledger import KEPT, Row

_MOST_STEPS = 4  # that are told of


class Progress:
    """A bar of sources with the time left, clips per second, and which share was rejected by which step.

    A share is of all that was decided by this run: clips kept, clips rejected, and sources of which no clip came about. So the shares of
    all steps, and that of what was kept, make a whole.
    """

    def __init__(self, name: str, num_sources: int) -> None:
        # smoothing: the rate over the whole run, for sources differ in length: the last few say little of the time left.
        # miniters: or the bar would wait for as many sources as were skipped in one go.
        self._bar = tqdm(total=num_sources, desc=f"prepare {name}", unit="source", dynamic_ncols=True, smoothing=0, miniters=1)
        self._num_kept = 0
        self._lost: Counter[str] = Counter()  # by step

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
        found = History.of(rows).totals()
        self._num_kept += found.clips.get(KEPT, 0)
        self._lost.update(found.reasons)
        self._bar.set_postfix_str(self.told(self._bar.format_dict["elapsed"]), refresh=False)
        self._bar.update()

    def told(self, seconds: float) -> str:
        """Return what stands behind the bar after so many seconds."""
        speed = f"{self._num_kept} clips, {self._num_kept / max(seconds, 1e-9):.2f}/s"
        decided = self._num_kept + self._lost.total()
        shares = ", ".join(f"{count / decided:.0%} {step}" for step, count in self._lost.most_common(_MOST_STEPS))
        return f"{speed}; rejected: {shares or 'none'}"
