import re
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup

from lipsync_lightning.evaluation import page
from lipsync_lightning.evaluation.page import Curve, Picture, Table, write_page
from lipsync_lightning.media.strips import save_png

TABLE = Table(
    columns=["metric", "stage <1>", "stage2"],
    rows=[["PSNR ↑", "20.0 dB", "22.5 dB"], ["SSIM ↑", "", "0.9"]],
    marks={(0, 2): "best"},
)


def picture(folder: Path, name: str, side: int = 16) -> Picture:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    save_png(folder / "samples" / f"{name}.png", noise)
    return Picture(title=name, image=folder / "samples" / f"{name}.png", video=folder / "samples" / f"{name} ü.mp4")


def test_table_pictures_curves_and_folded_details_stand_in_this_order(tmp_path: Path):
    out = write_page(
        tmp_path / "report" / "index.html",
        title="run & report",
        table=TABLE,
        pictures=[picture(tmp_path, "clip")],
        curves=[Curve(svg=Markup("<svg></svg>"), caption="falls")],
        details=[("steps", TABLE), ("config", "name: <stage1>"), ("more", [picture(tmp_path, "other")])],
    )
    html = out.read_text()
    assert html.count("data:image/png;base64,") == 2
    assert html.index("stage &lt;1&gt;") < html.index("data:image") < html.index("<svg>") < html.index("<details>")
    assert "name: &lt;stage1&gt;" in html
    assert "<script" not in html
    assert re.search(r'class="number best">22\.5 dB', html)
    addresses = re.findall(r'(?:src|href|poster|srcset)="([^"]*)"', html)
    linked = [each for each in addresses if not each.startswith("data:")]
    assert linked == ["../samples/clip%20%C3%BC.mp4", "../samples/other%20%C3%BC.mp4"]


def test_pictures_beyond_the_page_s_size_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page, "MOST_BYTES", 40_000)
    pictures = [picture(tmp_path, f"clip{number}", side=64) for number in range(5)]
    out = write_page(tmp_path / "index.html", title="run", pictures=pictures)
    html = out.read_text()
    assert 30_000 < out.stat().st_size <= 40_000
    assert html.count("data:image/png") == 2
    assert html.count('src="samples/clip4.png"') == 1


def test_a_table_is_also_plain_text():
    assert TABLE.lines() == ["metric  stage <1>   stage2", "PSNR ↑    20.0 dB  22.5 dB", "SSIM ↑                 0.9"]
