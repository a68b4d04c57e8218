import io

import pytest

from lipsync_lightning.preparation import progress
from lipsync_lightning.preparation.ledger import CLIP, KEPT, REJECTED, SOURCE, Row
from lipsync_lightning.preparation.progress import Progress


def of_source(*steps: str | None) -> list[Row]:
    """Rows of a source with a clip for each step that rejects it, and one that is kept for each None."""
    clips = [
        Row(kind=CLIP, source="a", verdict=REJECTED, step=step) if step else Row(kind=CLIP, source="a", verdict=KEPT)
        for step in steps
    ]
    return [*clips, Row(kind=SOURCE, source="a", verdict=KEPT)]


NO_CLIP = [Row(kind=SOURCE, source="b", verdict=REJECTED, step="check")]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written, bar = io.StringIO(), progress.tqdm
    monkeypatch.setattr(progress, "tqdm", lambda **settings: bar(**settings, file=written, mininterval=0))
    return written


def test_it_tells_clips_a_second_and_which_share_each_step_rejected(screen: io.StringIO):
    with Progress("mine", 3) as bar:
        bar.count(of_source(None, None, "sync", "sync"))
        bar.count(of_source(None, "sync", "quality"))
        bar.count(NO_CLIP)
        assert (
            bar.told(seconds=6.0)
            == "3 clips, 0.50/s; rejected sources: 33% check; rejected clips: 43% sync, 14% quality"
        )
    last = screen.getvalue().split("\r")[-1]
    assert "prepare mine: 100%" in last
    assert "43% sync" in last


def test_before_anything_was_rejected_nothing_is_said_of_it(screen: io.StringIO):
    with Progress("mine", 1) as bar:
        assert bar.told(seconds=0.0) == "0 clips, 0.00/s"


def test_what_an_earlier_run_has_done_says_nothing_about_the_time_left(screen: io.StringIO):
    with Progress("mine", 1000) as bar:
        bar.skip(900)
        bar._bar.start_t -= 60  # a minute for the next ten: ten minutes for the other ninety, less the one that passed
        for _ in range(10):
            bar.count(NO_CLIP)
        last = screen.getvalue().split("\r")[-1]
    assert "910/1000" in last
    assert "<09:0" in last
