from pathlib import Path

import pytest

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.preparation.sources.hdtf import HdtfSources

LISTS = {
    "RD_annotion_time": "Radio1.mp4 00:20-01:35\nRadio11.mp4 00:30-01:00 01:30-02:30 \n",
    "RD_crop_wh": "Radio1_0.mp4 412 599 10 599\nRadio11_0.mp4 40 478 0 478\n",
    "RD_resolution": "Radio1.mp4 720\nRadio11.mp4 1080\nRadio24.mp4 720\n",
    "RD_video_url": "Radio1 https://example.org/1\nRadio11 https://example.org/11\nRadio24 https://example.org/24\n",
    "WDA_annotion_time": "\nAnnaBaker0.mp4 01:02:03-01:02:13",
    "WDA_crop_wh": "AnnaBaker0_0.mp4 7 300 5 200\n",
    "WDA_resolution": "AnnaBaker0.mp4 2160\n\n",
    "WDA_video_url": "\ufeffAnnaBaker0 https://example.org/anna",
    "WRA_annotion_time": "Cy-Dee.mp4 08:10-08:30 00:33-08:53\n",
    "WRA_crop_wh": "Cy-Dee_0.mp4 0 700 21 700\nCy-Dee_1.mp4 0 700 0 700\n",
    "WRA_resolution": "Cy-Dee.mp4 720\n",
    "WRA_video_url": "",
}
VIDEOS = ["RD/Radio1.mp4", "RD/Radio11.webm", "WDA/AnnaBaker0.MP4", "WRA/Cy-Dee.mkv"]


def hdtf(folder: Path, lists: dict[str, str] = LISTS, videos: list[str] = VIDEOS) -> HdtfSources:
    for name, text in lists.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    for video in videos:
        (folder / video).parent.mkdir(exist_ok=True)
        (folder / video).touch()
    return HdtfSources(root=str(folder), lists=str(folder))


def test_every_interval_is_a_source_with_its_seconds_and_its_crop(tmp_path: Path):
    sources = {source.name: source for source in hdtf(tmp_path).all()}
    names = "RD/Radio11_0 RD/Radio11_1 RD/Radio1_0 WDA/AnnaBaker0_0 WRA/Cy-Dee_0 WRA/Cy-Dee_1"
    assert list(sources) == names.split()
    assert sources["RD/Radio1_0"] == Source(
        name="RD/Radio1_0",
        video=tmp_path / "RD/Radio1.mp4",
        start_s=20.0,
        stop_s=95.0,
        crop=(412, 10, 599, 599),
        crop_height=720,
    )
    assert (sources["RD/Radio11_1"].start_s, sources["RD/Radio11_1"].stop_s) == (90.0, 150.0)
    assert (sources["WDA/AnnaBaker0_0"].start_s, sources["WDA/AnnaBaker0_0"].stop_s) == (3723.0, 3733.0)


def test_any_usual_suffix_is_found_and_the_first_choice_is_mp4(tmp_path: Path):
    sources = hdtf(tmp_path, videos=[*VIDEOS, "RD/Radio1.mkv", "RD/Radio1.mp4.part"]).all()
    assert {source.video for source in sources} == {tmp_path / video for video in VIDEOS}


@pytest.mark.parametrize(
    ("crops", "heights"),
    [
        ("", "Cy-Dee.mp4 720"),  # no crop
        ("Cy-Dee_1.mp4 0 700 21 700", "Cy-Dee.mp4 720"),  # reaches below the picture
        ("Cy-Dee_1.mp4 0 700 0 700", "Cy-Dee.mp4 0"),  # no height
        ("Cy-Dee_1.mp4 0 700 0 700", ""),
    ],
)
def test_a_crop_that_cannot_be_right_is_none(tmp_path: Path, crops: str, heights: str):
    sources = hdtf(tmp_path, {**LISTS, "WRA_crop_wh": crops, "WRA_resolution": heights}).all()
    assert (sources[-1].name, sources[-1].crop, sources[-1].crop_height) == ("WRA/Cy-Dee_1", None, None)


def test_intervals_that_overlap_show_nothing_twice_and_that_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    *_, first, second = hdtf(tmp_path).all()
    assert (first.start_s, first.stop_s, second.start_s, second.stop_s) == (490.0, 510.0, 510.0, 533.0)
    assert "WRA/Cy-Dee: the interval 33-533 s begins inside the one before it; taken from 510 s" in caplog.messages


def test_missing_videos_are_left_out_counted_and_named_with_their_address(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    sources = hdtf(tmp_path, videos=["RD/Radio1.mp4"])
    assert [source.name for source in sources.all()] == ["RD/Radio1_0"]
    assert "5 of 6 clips have no video in" in caplog.text
    assert "RD/Radio11_0 (https://example.org/11)" in caplog.text
    assert sources.missing() == ["RD/Radio11_0", "RD/Radio11_1", "WDA/AnnaBaker0_0", "WRA/Cy-Dee_0", "WRA/Cy-Dee_1"]


def test_no_video_at_all_is_refused(tmp_path: Path):
    with pytest.raises(BadMedia, match=r"none of HDTF's videos lies in .*RD/Radio1\.mp4; download them"):
        hdtf(tmp_path, videos=[]).all()


@pytest.mark.parametrize(
    ("which", "line"),
    [
        ("RD_annotion_time", "Radio2.mp4"),
        ("RD_annotion_time", "Radio2.mp4 00:10"),
        ("RD_annotion_time", "Radio2.mp4 00:10-00:20-00:30"),
        ("RD_annotion_time", "Radio2.mp4 10-20"),
        ("RD_annotion_time", "Radio2.mp4 00:10-0x:20"),
        ("WDA_crop_wh", "AnnaBaker0_1.mp4 1 2 3"),
        ("WDA_crop_wh", "AnnaBaker0_1.mp4 1 0 3 4"),
        ("WDA_crop_wh", "AnnaBaker0_1.mp4 -1 2 3 4"),
        ("WRA_resolution", "Other.mp4 1280x720"),
        ("WRA_resolution", "Other.mp4"),
        ("WRA_video_url", "Other"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, which: str, line: str):
    with pytest.raises(BadMedia, match=rf"{which}\.txt, line 2: expected .*, got '{line}'; correct the line"):
        hdtf(tmp_path, {**LISTS, which: f"\n{line}\n{LISTS[which]}"}, videos=VIDEOS[:1]).all()


@pytest.mark.parametrize("interval", ["00:20-00:30", "01:40-01:40", "01:50-01:40"])
def test_intervals_that_only_repeat_others_or_end_before_they_begin_are_refused(tmp_path: Path, interval: str):
    with pytest.raises(BadMedia, match=r"RD/Radio1 are out of order at \d+-\d+ s; correct RD_annotion_time"):
        hdtf(tmp_path, {**LISTS, "RD_annotion_time": f"Radio1.mp4 00:20-01:35 {interval}\n"}).all()


def test_missing_and_unreadable_lists_are_named(tmp_path: Path):
    sources = hdtf(tmp_path)
    (tmp_path / "WDA_crop_wh.txt").unlink()
    with pytest.raises(BadMedia, match=r"WDA_crop_wh\.txt cannot be read: .*; give the folder with HDTF's lists"):
        sources.all()
    (tmp_path / "WDA_crop_wh.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadMedia, match=r"WDA_crop_wh\.txt cannot be read"):
        HdtfSources(root=str(tmp_path), lists=str(tmp_path)).all()
