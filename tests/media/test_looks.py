from itertools import combinations

import numpy as np

from drawn_people import drawn
from lipsync_lightning.media.looks import OTHER_PERSON, SAME_PERSON, difference, looks_of


def seen(person: int, clip: int = 0, brighter: float = 1.0) -> np.ndarray:
    shown = drawn(person, clip)
    frames = np.clip(shown.frames[::5] * brighter, 0, 255).astype(np.uint8)
    return np.sum([looks_of(*each) for each in zip(frames, shown.points[::5], strict=True)], axis=0)


def test_a_person_looks_alike_while_talking_and_in_other_light_and_nobody_else_does():
    people = [seen(person) for person in range(6)]
    assert max(difference(looks, seen(person, clip=1)) for person, looks in enumerate(people)) < SAME_PERSON
    assert max(difference(looks, seen(person, brighter=0.9)) for person, looks in enumerate(people)) < OTHER_PERSON
    assert min(difference(*pair) for pair in combinations(people, 2)) > SAME_PERSON


def test_looks_are_the_same_wherever_the_face_is_and_however_it_is_turned():
    frame, points = drawn(2).frames[0], drawn(2).points[0]
    about = np.ascontiguousarray(frame[::-1, ::-1])
    assert difference(looks_of(frame, points), looks_of(about, len(frame) - 1 - points)) < SAME_PERSON / 4
