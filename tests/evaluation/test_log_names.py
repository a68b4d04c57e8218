from lipsync_lightning.evaluation.log_names import groups_of


def titles(*names: str) -> list[str]:
    return [group.title for group in groups_of(names)]


def test_every_name_has_one_place_known_or_not():
    names = [
        "train/loss",
        "val/loss",
        "val/loss_sync",
        "lr-AdamW/pg1",
        "lr-AdamW/pg2",
        "vitals/mfu",
        "val/never_seen",
        "plain",
    ]
    groups = groups_of(names)
    assert sorted(name for group in groups for name in group.names if name in names) == sorted(names)
    assert [group.title for group in groups] == [
        "Loss",
        "Loss term: sync",
        "MFU",
        "Learning rate",
        "plain",
        "val/never_seen",
    ]


def test_a_term_s_training_and_held_out_values_share_a_panel():
    assert titles("train/loss_sync", "val/loss_sync") == ["Loss term: sync"]


def test_nothing_logged_has_no_panels():
    assert titles() == []
