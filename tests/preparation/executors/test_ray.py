"""What Ray's own test, which starts a cluster, would only show by chance."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")
from ray.exceptions import RayTaskError

from lipsync_lightning.errors import ClipTooShort, LipSyncError, MissingWeights
from lipsync_lightning.preparation.executors import Job, SourceTask
from lipsync_lightning.preparation.executors import ray as on_ray
from lipsync_lightning.preparation.executors.ray import JudgeOnCluster, RayExecutor
from lipsync_lightning.preparation.parcels import Parcel
from lipsync_lightning.preparation.sources import Source
from tiny_recipe import folder_recipe


class Actor:
    """Answers with its number."""

    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def judge(self) -> Any:
        return SimpleNamespace(remote=lambda *_: self.number)


def raising(error: Exception) -> Any:
    """Return a `ray.get` that raises as Ray does: one exception that is both its own and the task's."""

    def get(_: Any) -> None:
        raise RayTaskError("judge", "Traceback ...", error, "title", 1, "ip").as_instanceof_cause()

    return get


def test_tasks_start_at_any_of_the_actors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(on_ray.ray, "get", lambda answer: answer)
    sent = pickle.dumps(JudgeOnCluster("1", [Actor(number) for number in range(4)]))
    assert {pickle.loads(sent)() for _ in range(200)} == {0, 1, 2, 3}


def test_what_a_judge_raises_has_the_words_it_has_without_a_cluster(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(on_ray.ray, "get", raising(ClipTooShort("6 frames needed, got 2")))
    with pytest.raises(ClipTooShort) as caught:
        JudgeOnCluster("1", [Actor(0)])()
    assert str(caught.value) == "6 frames needed, got 2"
    assert not isinstance(caught.value, RayTaskError)


class Cluster:
    """Stands in for the module `ray`: does each task when it is asked for the outcome."""

    def __init__(self, cpus: float | None, get: Any = lambda _: None) -> None:
        self.cpus = cpus
        self.get = get
        self.handed_out: list[SourceTask] = []

    def cluster_resources(self) -> dict[str, float]:
        return {} if self.cpus is None else {"CPU": self.cpus}

    def is_initialized(self) -> bool:
        return True

    def put(self, value: Any) -> Any:
        return value

    def remote(self, _: Any) -> Any:
        return self

    def options(self, **_: Any) -> Any:
        def hand_out(_: Job, task: SourceTask, *__: Any) -> object:
            self.handed_out.append(task)
            return object()

        return SimpleNamespace(remote=hand_out)

    def wait(self, running: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        return [running[0]], list(running[1:])


@pytest.fixture
def tasks(tmp_path: Path) -> list[SourceTask]:
    sources = [Source(name=str(number), video=tmp_path / str(number)) for number in range(5)]
    return [SourceTask(source=source, parcel=Parcel(tmp_path / f"{source.name}.tar")) for source in sources]


def worked(cluster: Cluster, tasks: list[SourceTask], clip: Any, monkeypatch: pytest.MonkeyPatch) -> list[SourceTask]:
    monkeypatch.setattr(on_ray, "ray", cluster)
    executor = RayExecutor(address=None, num_judges=1, gpus_per_judge=0, max_retries=0, max_hours_per_source=1)
    return list(executor.work(Job(recipe=folder_recipe(Path()), clip=clip), tasks))


@pytest.mark.parametrize("cpus", [None, 0.0, 0.5, 1.0, 64.0])
def test_every_task_is_worked_however_few_cpus_a_cluster_has(
    cpus: float | None, tasks: list[SourceTask], tiny_clip: Any, monkeypatch: pytest.MonkeyPatch
):
    assert worked(Cluster(cpus), tasks, tiny_clip, monkeypatch) == tasks


@pytest.mark.parametrize(
    "error", [MissingWeights("judge.pt: not there; fetch it"), OSError(28, "No space left on device", "x.tar")]
)
def test_what_ends_the_run_is_what_the_task_raised(
    error: LipSyncError | OSError, tasks: list[SourceTask], tiny_clip: Any, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(type(error)) as caught:
        worked(Cluster(1, raising(error)), tasks, tiny_clip, monkeypatch)
    assert caught.value is error
