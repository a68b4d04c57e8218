import warnings
from collections.abc import Callable, Iterable
from math import inf, log, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lipsync_lightning.callbacks.syncnet_watch import SyncNetWatch, faults_of
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.media.alignment import align, alignment_matrices
from lipsync_lightning.media.audio import encode_flac
from lipsync_lightning.media.clips import encode_clip
from lipsync_lightning.shards.format import FinishedClip, write_shard
from lipsync_lightning.shards.reader import ClipIndex
from lipsync_lightning.synthetic.corpus import ClipPlan, make_clip
from tiny_shards import find_shards

CLIP = ClipSpec(num_frames=4, fps=25, resolution=32, sample_rate_hz=16000, mel_hz=80, num_mels=80)
NUM_PAIRS = 32
CHANCE = log(NUM_PAIRS)  # 3.47
OBJECTIVE = SimpleNamespace(chance=log)


NUM_CLIPS = 32
Sounds = list[np.ndarray]
Speakers = tuple[list[bytes], Sounds]


@pytest.fixture(scope="module")
def speakers() -> Speakers:
    """Aligned faces of two seconds, encoded, and the sound of each: made-up people, talking."""
    faces, sounds = [], []
    for person in range(NUM_CLIPS):
        clip = make_clip(ClipPlan(seed=1, person=person, clip=0, seconds=2.0, leak=0.0, fps=CLIP.fps, size=96))
        matrices = alignment_matrices(clip.points, CLIP.resolution)
        aligned = [align(frame, matrix, CLIP.resolution) for frame, matrix in zip(clip.frames, matrices, strict=True)]
        faces.append(encode_clip(np.stack(aligned), fps=CLIP.fps))
        sounds.append(clip.utterance.waveform)
    return faces, sounds


def index_with(speakers: Speakers, folder: Path, change: Callable[[Sounds], Sounds]) -> ClipIndex:
    """Return the clips with the sounds that `change` makes of theirs."""
    clips = [
        FinishedClip(f"d/{number}", 50, {"mp4": face, "flac": encode_flac(sound, CLIP.sample_rate_hz), "json": b"{}"})
        for number, (face, sound) in enumerate(zip(speakers[0], change(speakers[1]), strict=True))
    ]
    write_shard(folder / "train" / "000000.tar", clips, clip=CLIP)
    return ClipIndex(find_shards(folder, "train", CLIP))


def late(frames: int) -> Callable[[Sounds], Sounds]:
    return lambda sounds: [np.roll(sound, frames * CLIP.sample_rate_hz // CLIP.fps) for sound in sounds]


def swapped(sounds: Sounds) -> Sounds:
    return sounds[1:] + sounds[:1]


def watching(run_dir: Path, **changes: Any) -> SyncNetWatch:
    return SyncNetWatch(**{"patience_steps": 1000, **changes})


def told(
    watch: SyncNetWatch,
    validations: Iterable[tuple[float, float] | tuple[float, float, float]],
    *,
    first_step: int = 500,
    objective: Any = OBJECTIVE,
    **changes: Any,
) -> list[str]:
    """Show a watch trainings' losses and held-out AUCs (and offsets), 500 steps apart, and return what it warned of."""
    facts = {"is_global_zero": True, "world_size": 1, "accumulate_grad_batches": 1, "sanity_checking": False}
    trainer: Any = SimpleNamespace(**{**facts, "datamodule": None, **changes})
    module: Any = SimpleNamespace(objective=objective, last_similarities=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number, (loss, auc, *offset) in enumerate(validations):
            trainer.global_step = first_step + 500 * number
            metrics = zip(("val/auc", "val/offset_frames"), (auc, *offset), strict=False)
            trainer.callback_metrics = {name: torch.tensor(value) for name, value in metrics}
            batch: Any = {"mel": torch.zeros(NUM_PAIRS, 1)}
            for factor in (0.9, 1.1, nan, -inf):  # a step that is not finite was skipped, and counts as nothing
                outputs = {"loss": torch.tensor(factor * loss / trainer.accumulate_grad_batches)}
                watch.on_train_batch_end(trainer, module, outputs, batch, 0)
            watch.on_validation_end(trainer, module)
    return [str(warning.message) for warning in caught]


def test_loss_and_auc_at_chance_are_told_once_with_both_figures_and_the_number_of_pairs(tmp_path, monkeypatch):
    data = data_of(lambda split, most: ClipIndex(find_shards(tmp_path, split, CLIP)), monkeypatch)
    (message,) = told(watching(tmp_path), [(CHANCE, 0.51)] * 6, datamodule=data)
    first, missing, pairs = message.splitlines()
    assert first == (
        "step 1500: SyncNet learns nothing: training loss 3.47 (guessing: 3.47), held-out AUC 0.51 (guessing: 0.50)"
    )
    assert missing.startswith("- the clips could not be looked at: no shards at"), "shards that are gone stop nothing"
    assert pairs.startswith("- 32 pairs are compared in a step (published: 1024 learnt best")


def test_real_faces_that_are_memorised_are_told_as_such_and_not_as_too_small_a_batch(tmp_path):
    """The figures of a run on real faces: the loss falls from chance, 3.5, to 2.0, the AUC stays at 0.50 to 0.56."""
    losses, aucs = [3.49, 3.4, 3.1, 2.8, 2.5, 2.2, 2.0], [0.50, 0.53, 0.56, 0.52, 0.55, 0.51, 0.54]
    (message,) = told(watching(tmp_path), zip(losses, aucs, strict=True))
    assert message.startswith("step 2500: SyncNet memorises its training clips: training loss 2.50 (guessing: 3.47), ")
    assert "held-out AUC 0.55 (guessing: 0.50)" in message
    assert "it needs more people and more clips; a larger batch does not help" in message
    assert "learns nothing" not in message
    assert "pairs are compared" not in message
    assert "minutes" not in message, "there is no data module"
    messages = told(watching(tmp_path), [(CHANCE, 0.5)] * 4 + [(2.0, 0.5)] * 4)
    assert ["memorises" in message for message in messages] == [False, True], "one may follow the other"


def test_a_syncnet_that_memorises_is_told_how_little_it_has_to_learn_from(speakers, tmp_path, monkeypatch):
    data = data_of(lambda split, most: index_with(speakers, tmp_path, late(0)), monkeypatch)
    (message,) = told(watching(tmp_path), [(CHANCE, 0.5)] + [(2.0, 0.53)] * 4, datamodule=data)
    assert message.endswith("it has 1 videos, 1.1 minutes of sound"), "32 clips of two seconds, of one source by name"


@pytest.mark.parametrize(
    "validations",
    [
        [(CHANCE, 0.5), (3.0, 0.62), (2.5, 0.7), (2.0, 0.74)],
        [(CHANCE, 0.5), (CHANCE, 0.5), (3.2, 0.65), (CHANCE, 0.5), (CHANCE, 0.5)],
        [(1.5 * CHANCE, 0.5)] * 6,
        [(2.0, 0.8)] * 6,
    ],
    ids=["learning", "leaving chance starts patience anew", "diverging", "good"],
)
def test_other_runs_are_told_nothing(tmp_path, validations):
    assert told(watching(tmp_path), validations) == []


def test_chance_is_the_objective_s_and_of_the_pairs_of_all_ranks(tmp_path):
    published = SimpleNamespace(chance=lambda num_pairs: log(2))
    assert "(guessing: 0.69)" in told(watching(tmp_path), [(log(2), 0.5)] * 4, objective=published)[0]
    (message,) = told(watching(tmp_path), [(log(64), 0.5)] * 4, world_size=2, accumulate_grad_batches=4)
    assert "training loss 4.16 (guessing: 4.16)" in message
    assert "64 pairs are compared" in message
    assert told(watching(tmp_path), [(CHANCE, 0.5)] * 4, is_global_zero=False) == []


def test_what_was_told_and_how_long_it_is_so_survive_a_checkpoint(tmp_path):
    before, after, again = (watching(tmp_path) for _ in range(3))
    assert told(before, [(CHANCE, 0.5)] * 2) == []
    after.load_state_dict(before.state_dict())
    assert len(told(after, [(CHANCE, 0.5)], first_step=1500)) == 1
    again.load_state_dict(after.state_dict())
    assert told(again, [(CHANCE, 0.5)] * 4, first_step=2000) == []


@pytest.mark.parametrize(("offset", "heard"), [(-3.0, "3 frames late"), (2.0, "2 frames early")])
def test_a_best_match_that_lies_elsewhere_twice_in_a_row_is_told_once(tmp_path, offset, heard):
    assert told(watching(tmp_path), [(2.0, 0.8, offset), (2.0, 0.8, 0.0), (2.0, 0.8, offset)]) == [], "may be chance"
    assert told(watching(tmp_path), [(2.0, 0.7, offset)] * 4) == [], "it has not learnt enough to be believed"
    (message,) = told(watching(tmp_path), [(2.0, 0.8, offset)] * 4)
    assert f"SyncNet learns (held-out AUC 0.80), but in the held-out clips the sound comes {heard}" in message


def data_of(clip_index: Callable[..., ClipIndex], monkeypatch: pytest.MonkeyPatch) -> ClipDataModule:
    """A data module, as far as the watch looks at it."""
    data = ClipDataModule.__new__(ClipDataModule)
    monkeypatch.setattr(data, "clip", CLIP, raising=False)
    monkeypatch.setattr(data, "clip_index", clip_index, raising=False)
    return data


def test_a_constant_offset_of_the_training_clips_is_told_where_syncnet_takes_it_for_sync(
    speakers, tmp_path, monkeypatch
):
    data = data_of(lambda split, most: index_with(speakers, tmp_path, late(6)), monkeypatch)
    (message,) = told(watching(tmp_path), [(2.0, 0.9, 0.0)] * 3, datamodule=data)
    assert "it has learned a constant audio offset: in the training clips the sound comes 6 frames late" in message


@pytest.mark.parametrize(
    ("change", "fault", "offset"),
    [
        (late(0), None, 0),
        (late(6), "the sound comes 6 frames late in 32 clips together", -6),
        (late(-13), "the sound comes 13 frames early in 32 clips", 13),
        (lambda sounds: sounds[:1] * NUM_CLIPS, "of 32 clips 32 hold the same sound as another and 0 are silent", None),
        (lambda sounds: [0 * each for each in sounds], "of 32 clips 0 hold the same sound as another and 32", None),
        (swapped, "in 32 clips the sound fits the lips hardly better than another clip's", None),
    ],
    ids=["right", "late", "early", "one sound", "silence", "swapped"],
)
def test_what_is_wrong_with_clips_is_found_and_nothing_else(speakers, tmp_path, change, fault, offset):
    faults, common = faults_of(index_with(speakers, tmp_path, change), CLIP)
    assert common == offset
    assert (faults == []) == (fault is None)
    assert fault is None or faults[0].startswith(fault)


def test_few_clips_or_unreadable_ones_are_suspected_of_nothing(speakers, tmp_path):
    index = index_with(speakers, tmp_path, swapped)
    index.read = lambda clip, read=index.read: read(clip) if clip < 13 else read(clip) | {"flac": b"broken"}
    assert faults_of(index, CLIP) == ([], None)
