from math import inf
from pathlib import Path

import numpy as np
import pytest

from lipsync_lightning.errors import BadConfig, BadMedia
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.pipeline.script import Line, read_script, script_of, write_mix
from tiny_media import write_wav


def test_lines_are_read_with_sounds_beside_the_file(tmp_path: Path):
    path = tmp_path / "two people.csv"
    path.write_text('\ufeffperson,start,end,sound\n0,0,2.5,one.wav\n"320,200@1",2.5,,sub/two.wav\n')
    assert read_script(path) == [
        Line("0", tmp_path / "one.wav", 0.0, 2.5),
        Line("320,200@1", tmp_path / "sub" / "two.wav", 2.5, inf),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no row"),
        (
            "who,start,end,sound\n0,0,1,a.wav\n",
            "has who,start,end,sound; its columns must be person,sound, ",
        ),
        ("person,start,end,sound\n0,zero,1,a.wav\n", "row 2: could not convert"),
        ("person,start,end,sound\n0,0,1,a.wav\n0,2,1,a.wav\n", "row 3: from 2.0 to 1.0"),
        ("person,start,end,sound\n0,nan,1,a.wav\n", "row 2"),
        ("person,start,end,sound\n640,300,0,1,a.wav\n", "row 2 has more cells than columns; quote those with commas"),
        ("person,start,end,sound\n,0,1,a.wav\n", "row 2 says nothing of person"),
    ],
)
def test_what_is_no_script_is_refused_with_its_row(tmp_path: Path, text: str, words: str):
    path = tmp_path / "script.csv"
    path.write_text(text)
    with pytest.raises(BadConfig, match=words):
        read_script(path)
    with pytest.raises(BadConfig, match="cannot be read"):
        read_script(tmp_path / "nowhere.csv")


def test_voices_of_several_lines_are_heard_where_they_are_and_not_too_loud(tmp_path: Path):
    levels = np.full((8000, 1), 25000)  # half a second
    for name in ("a", "b"):
        write_wav(tmp_path / f"{name}.wav", levels, 16000)
    one, other = tmp_path / "a.wav", tmp_path / "b.wav"
    lines = [Line("0", one, 0.25), Line("1", other, 0.5, 0.6), Line("0", one, -0.4)]
    heard = read_audio(write_mix(tmp_path / "mix.flac", lines), 16000)
    assert len(heard) == 12000
    assert heard.max() == pytest.approx(1, abs=0.05)
    alone = np.median(heard[5000:7500])
    assert np.median(heard[8200:9400]) == pytest.approx(2 * alone, abs=0.02)
    assert np.median(heard[:1500]) == pytest.approx(alone, abs=0.02)
    assert np.abs(heard[1800:3800]).max() < 0.02


def test_times_of_a_script_are_moved_with_its_sound(tmp_path: Path):
    write_wav(tmp_path / "a.wav", np.full((8000, 1), 9000), 16000)
    (tmp_path / "lines.csv").write_text("person,sound\n0,a.wav\n")
    script = script_of(tmp_path / "lines.csv", None, "largest", 1.5, 16000, None, tmp_path)
    assert script.lines[0].start_s == 1.5
    assert script.files(but=tmp_path) == {}
    with pytest.raises(BadMedia, match="no such file"):
        script_of(tmp_path / "lines.csv", tmp_path / "nowhere.wav", "largest", 0, 16000, None, tmp_path)
