import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lipsync_lightning.errors import WouldOverwrite
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.synthetic.corpus import _WORDS, ClipPlan, make_clip, write_corpus
from lipsync_lightning.synthetic.opening import correlation
from lipsync_lightning.synthetic.speech import speak

SETTINGS: dict[str, Any] = {"seed": 9, "seconds": 1.0, "leak": 0.0, "size": 96}


def plan(**changes: Any) -> ClipPlan:
    return ClipPlan(**{"person": 1, "clip": 0, "fps": 25, **SETTINGS, **changes})


def write(out: Path, **changes: Any) -> list[Path]:
    return write_corpus(out=out, **{"people": range(1), "clips_per_person": 2, "num_workers": 1, **SETTINGS, **changes})


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_clips_of_one_person_share_looks_and_voice_but_not_words():
    first, second = make_clip(plan()), make_clip(plan(clip=1))
    assert first.identity == second.identity
    assert first.speaker == second.speaker
    assert not np.array_equal(first.utterance.opening, second.utterance.opening)
    assert make_clip(plan(person=2)).identity != first.identity


def test_decoded_sound_and_pictures_are_in_step_with_what_was_made(tmp_path):
    path = write(tmp_path, people=range(1, 2), clips_per_person=1)[0]
    made = make_clip(plan())
    pictures = decoded(path)
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert path.name == "person_001_clip_0.mp4"
    assert pictures.shape == made.frames.shape
    assert np.abs(pictures.astype(int) - made.frames).mean() < 5
    excerpt = sound[4000:12000]
    lags = np.correlate(made.utterance.waveform[2000:14000], excerpt, mode="valid")
    assert np.argmax(lags) == 2000


def test_a_second_call_writes_only_what_is_missing(tmp_path):
    kept, lost = write(tmp_path)
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    assert write(tmp_path) == [kept, lost]
    assert kept.stat().st_mtime_ns == stamp
    assert not list(tmp_path.glob(".*"))


def test_a_folder_of_other_settings_is_refused(tmp_path):
    write(tmp_path, clips_per_person=1)
    with pytest.raises(WouldOverwrite, match=r"leak 0\.0 instead of 0\.5"):
        write(tmp_path, clips_per_person=1, leak=0.5)


def test_clips_do_not_depend_on_how_many_people_or_workers_there_are(tmp_path):
    alone = write(tmp_path / "alone", people=range(1, 2), seconds=0.4)
    together = write(tmp_path / "together", people=range(2), seconds=0.4, num_workers=2)
    for path in alone:
        facts = path.with_suffix(".json")
        assert facts.read_bytes() == (tmp_path / "together" / facts.name).read_bytes()
        assert np.abs(decoded(path).astype(int) - decoded(tmp_path / "together" / path.name)).mean() < 2
    assert len(together) == 4


def test_sound_out_of_step_is_the_same_sound_shifted_by_the_frames_the_facts_state(tmp_path):
    in_step, shifted = (write(tmp_path / str(most), clips_per_person=6, max_offset_frames=most) for most in (0, 5))
    stated = [json.loads(path.with_suffix(".json").read_text())["sound_early_by"] for path in shifted]
    assert len(set(stated)) > 3
    assert max(map(abs, stated)) <= 5
    for one, other, early in zip(in_step, shifted, stated, strict=True):
        sounds = [read_audio(path, 16000) for path in (other, one)]
        length = min(map(len, sounds))
        found = np.correlate(sounds[1][:length], sounds[0][:length], "full").argmax() - (length - 1)
        assert abs(found - early * 640) <= 2


def test_a_second_voice_changes_the_sound_alone_and_hides_the_opening_from_who_hears_loudness():
    heard = []
    for person in range(6):
        alone, crowded = (make_clip(plan(person=person, seconds=3.0, second_voice=share)) for share in (0.0, 1.0))
        said = speak(alone.speaker, 3.0, plan(person=person).stream(_WORDS))
        assert np.array_equal(alone.utterance.waveform, said.waveform)
        assert np.array_equal(alone.frames, crowded.frames)
        assert np.abs(crowded.utterance.waveform).max() <= 1
        loudness = [np.abs(clip.utterance.waveform).reshape(-1, 640).mean(1) for clip in (alone, crowded)]
        heard.append([correlation(loud, alone.utterance.opening) for loud in loudness])
    assert np.mean(heard, axis=0)[1] < np.mean(heard, axis=0)[0] - 0.15


def test_a_folder_from_before_there_was_a_second_voice_is_gone_on_with(tmp_path):
    facts = write(tmp_path, clips_per_person=1)[0].with_suffix(".json")
    stored = json.loads(facts.read_text())
    del stored["second_voice"]
    facts.write_text(json.dumps(stored))
    write(tmp_path, clips_per_person=1)
    with pytest.raises(WouldOverwrite, match=r"second_voice None instead of 0\.5"):
        write(tmp_path, clips_per_person=1, second_voice=0.5)
