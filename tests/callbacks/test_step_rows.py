from lipsync_lightning.callbacks.step_rows import put_rows


def test_rows_of_the_same_and_of_later_steps_are_replaced(tmp_path):
    path = tmp_path / "table.csv"
    for step in (10, 20, 30, 20):
        put_rows(path, step, [{"made": f"{step}, a"}, {"made": None}])
    assert path.read_text().splitlines() == ["step,made", '10,"10, a"', "10,", '20,"20, a"', "20,"]
