from pathlib import Path

import cv2
import numpy as np
import pytest

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.strips import film_strip, read_png, save_png, stacked, strip_rows


def test_a_film_strip_shows_first_and_last_frame_of_every_video():
    video = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((20, 4, 6, 3), np.uint8)
    strip = film_strip([video, video + 100], num_columns=3)
    assert strip.shape == (4 + 2 + 4, 6 + 2 + 6 + 2 + 6, 3)
    assert strip[0, [0, 8, 16], 0].tolist() == [0, 10, 19]
    assert strip[-1, [0, 8, 16], 0].tolist() == [100, 110, 119]
    assert (strip[4:6] == 255).all()
    assert film_strip([video[:2]]).shape == (4, 14, 3)


def test_the_rows_of_a_strip_are_the_pictures_it_was_stacked_from():
    rows = list(np.random.default_rng(1).integers(0, 256, (3, 5, 7, 3), np.uint8))
    np.testing.assert_array_equal(strip_rows(stacked(rows), 3), rows)
    with pytest.raises(BadMedia, match="no film strip of 4 rows"):
        strip_rows(stacked(rows), 4)


def test_a_saved_picture_comes_back_in_its_own_colours(tmp_path: Path):
    image = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    save_png(tmp_path / "new" / "strip.png", image)
    read = cv2.imread(str(tmp_path / "new" / "strip.png"))
    assert read is not None
    np.testing.assert_array_equal(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), image)
    np.testing.assert_array_equal(read_png(tmp_path / "new" / "strip.png"), image)
