from math import inf
from pathlib import Path

import pytest

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.pipeline.script import Line, read_script


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
        ("who,start,end,sound\n0,0,1,a.wav\n", "must be person,start,end,sound"),
        ("person,start,end,sound\n0,zero,1,a.wav\n", "row 2: could not convert"),
        ("person,start,end,sound\n0,0,1,a.wav\n0,2,1,a.wav\n", "row 3: from 2.0 to 1.0"),
        ("person,start,end,sound\n0,nan,1,a.wav\n", "row 2"),
        ("person,start,end,sound\n,0,1,a.wav\n", "person and sound are needed"),
    ],
)
def test_what_is_no_script_is_refused_with_its_row(tmp_path: Path, text: str, words: str):
    path = tmp_path / "script.csv"
    path.write_text(text)
    with pytest.raises(BadConfig, match=words):
        read_script(path)
    with pytest.raises(BadConfig, match="cannot be read"):
        read_script(tmp_path / "nowhere.csv")
