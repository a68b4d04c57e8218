from lipsync_lightning.pipeline.reference import own_frames, previous_window


def test_a_window_is_shown_the_frames_before_it_and_only_the_first_one_itself():
    turn = range(10, 40)
    assert previous_window(turn, [10, 11, 12, 13]) == own_frames(turn, [10, 11, 12, 13]) == [10, 11, 12, 13]
    assert previous_window(turn, [20, 21, 22, 23]) == [16, 17, 18, 19]
    assert previous_window(turn, [12, 13, 14, 15]) == [10, 10, 10, 11]
