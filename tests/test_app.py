"""The page, asked as a browser asks it; then in a browser, where there is one."""

import re
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from omegaconf import OmegaConf

from command_line import CommandLine
from lipsync_lightning.app import main
from lipsync_lightning.errors import NoFace
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.media.mux import video_writer
from lipsync_lightning.media.video import probe, timed_frames
from tiny_media import SIDE, sound_of, write_video, write_wav

gradio_client = pytest.importorskip("gradio_client", reason="gradio is not installed")

MIDDLE = r"(3[12]),(3[12])"  # of a picture of 64 pixels


class FakePipeline:
    """Darkens pictures in steps that take a while; remembers how it was called."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.steps = 0
        self.free = threading.Lock()
        self.bar: dict[str, Any] = {}
        self.config = SimpleNamespace(num_inference_steps=20, guidance_scale=1.5)

    def set_progress_bar_config(self, **options: Any) -> None:
        self.bar = options

    def __call__(self, video: str, audio: str, *, out: Path, callback_on_step_end: Any, **options: Any) -> Any:
        assert self.free.acquire(blocking=False), "two jobs at once"
        try:
            self.calls.append({"video": video, "audio": audio, **options})
            if options["face"] == "nobody":
                raise NoFace(f"{video}: no face on any of 10 frames; give another <b>video</b>")
            for step in range(1000 if options["seed"] == 999 else 3):
                callback_on_step_end(self, step, 0, {"latents": None})
                self.bar["file"].write(f"\r{10 * step % 100} 00:07 result.mp4: ")
                self.steps += 1
                time.sleep(0.05)
            with video_writer(out, width=SIDE, height=SIDE, fps=25, sound=audio) as write:
                for frame in timed_frames(video):
                    write(frame.image // 2)
        finally:
            self.free.release()
        alone = SimpleNamespace(start_s=0.2, end_s=0.4, reason="turned away")
        return SimpleNamespace(path=out, num_frames=10, num_synced=9, seconds=0.4, told=("a word",), left_alone=[alone])


@pytest.fixture(scope="module")
def pipeline() -> FakePipeline:
    return FakePipeline()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def url(pipeline: Any, folder: Path) -> Iterator[str]:
    from lipsync_lightning.commands import app

    limits = {"max_mb": 1, "max_seconds": 3, "port": None}
    config = OmegaConf.merge(OmegaConf.load(CONF_DIR / "app.yaml"), limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        blocks = app.page(app.Jobs(pipeline, config))
        yield app.launch(blocks, config, prevent_thread_lock=True, quiet=True)[1]
        blocks.close()


@pytest.fixture
def client(url: str) -> Any:
    return gradio_client.Client(url, verbose=False)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("mine") / "a person.mp4", 10, sound_of(10))


@pytest.fixture(scope="module")
def sound(video: Path) -> Path:
    return write_wav(video.with_name("speech.wav"), np.zeros((6400, 1)), 16000)


def ask(client: Any, video: Path, sound: Path, **settings: Any) -> Any:
    given = {"face": "largest", "length": "video", "extend": "pingpong", "start": 0, "end": 0, "seed": 0}
    given |= {"num_inference_steps": 20, "guidance_scale": 1.5, "speak_silence": False, "crf": 18} | settings
    return client.submit(*map(gradio_client.handle_file, (video, sound)), *given.values(), api_name="/lipsync")


def refusal(client: Any, video: Path, sound: Path, **settings: Any) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        ask(client, video, sound, **settings).result()
    return str(caught.value)


def test_a_job_gives_the_video_the_strip_and_what_is_said_of_it(client: Any, pipeline: Any, folder: Path, video, sound):
    made, strip, told = ask(client, video, sound, face="8,9@0.2", crf=20, num_inference_steps=4).result()
    assert len(list(timed_frames(made))) == 10
    assert Path(strip).is_file()
    assert told == "9 of 10 frames lip-synced, 0.40 s\na word\n0.20-0.40 s: turned away"
    called = pipeline.calls[-1]
    assert (called["face"], called["crf"], called["num_inference_steps"]) == ("8,9@0.2", 20, 4)
    assert (called["guidance_scale"], called["end"], called["speak_silence"]) == (1.5, None, False)
    assert Path(called["video"]).is_relative_to(folder)
    assert not list(folder.glob("*/result.mp4.part"))


def test_errors_are_one_sentence_without_paths_or_markup(client: Any, folder: Path, video: Path, sound: Path):
    said = refusal(client, video, sound, face="nobody")
    assert said == "a person.mp4: no face on any of 10 frames; give another &lt;b&gt;video&lt;/b&gt;"


def test_what_is_no_video_is_told_in_one_sentence(client: Any, sound: Path, tmp_path: Path):
    bomb = tmp_path / "bomb.mp4"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    assert refusal(client, bomb, sound).startswith("bomb.mp4: ")


def test_what_is_too_long_or_too_large_is_told_before_it_is_read(client: Any, video: Path, sound: Path, tmp_path: Path):
    long = write_wav(tmp_path / "long.wav", np.zeros((8000 * 4, 1)), 8000)
    assert refusal(client, video, long).startswith("long.wav: 4 s of 0.0 million pixels; this page takes 3 s")
    large = httpx.post(f"{client.src}gradio_api/upload", files={"files": ("v.mp4", bytes(1_100_000))})
    assert large.status_code == 413


@pytest.mark.parametrize("name", ["../../evil.mp4", "/etc/evil.mp4", "..\\evil.mp4", "a\x00b.mp4", "x" * 300 + ".mp4"])
def test_the_name_of_an_upload_leads_nowhere(client: Any, folder: Path, name: str):
    (kept,) = httpx.post(f"{client.src}gradio_api/upload", files={"files": (name, b"none")}).json()
    assert Path(kept).resolve().is_relative_to(folder.resolve())


@pytest.mark.parametrize("path", ["/etc/passwd", str(CONF_DIR / "app.yaml"), "../../../../etc/passwd"])
def test_no_file_of_the_machine_can_be_read(client: Any, sound: Path, path: str):
    assert httpx.get(f"{client.src}gradio_api/file={path}").status_code in (403, 404)
    posing = {"path": path, "meta": {"_type": "gradio.FileData"}}
    begun = httpx.post(f"{client.src}gradio_api/call/frame", json={"data": [posing, 0]}).json()
    told = httpx.get(f"{client.src}gradio_api/call/frame/{begun['event_id']}").text
    assert "event: error" in told
    assert "root:" not in told


def test_a_cancelled_job_ends_at_its_next_step_and_the_next_one_runs(client: Any, pipeline: Any, video, sound):
    job, before = ask(client, video, sound, seed=999), pipeline.steps
    while pipeline.steps < before + 2:
        time.sleep(0.02)
    client.predict(api_name="/cancel")
    with pytest.raises(Exception, match="cancelled; nothing was written"):
        job.result()
    assert pipeline.steps < before + 100
    client.predict(api_name="/want")
    ask(client, video, sound).result()


def test_a_page_without_a_model_is_refused(command_line: CommandLine):
    assert "give model=" in command_line.refusal(main)


def test_in_a_browser_from_upload_to_download_and_to_a_cancelled_job(
    url: str, pipeline: Any, video: Path, sound: Path, tmp_path: Path
):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1400})
        page.goto(url)
        uploads = page.locator("input[type=file]")
        uploads.nth(0).set_input_files(video)
        page.locator("#frame img").wait_for()
        uploads.nth(-1).set_input_files(sound)
        page.locator("#frame img").click()
        face = page.get_by_label("face")
        playwright.expect(face).to_have_value(re.compile(f"{MIDDLE}@0"))
        page.get_by_role("button", name="Lip-sync").click()
        playwright.expect(page.get_by_label("said of it")).to_have_value(re.compile("9 of 10 frames"), timeout=20000)
        with page.expect_download() as download:
            page.locator("#result a[download]").click()
        download.value.save_as(tmp_path / "got.mp4")
        page.get_by_label("seed").fill("999")
        page.get_by_role("button", name="Lip-sync").click()
        playwright.expect(page.get_by_text("result.mp4: 00:07 left").first).to_be_visible(timeout=20000)
        page.get_by_role("button", name="Cancel").click()
        playwright.expect(page.get_by_text("cancelled; nothing was written")).to_be_visible()
        browser.close()
    assert probe(tmp_path / "got.mp4").width == SIDE
    assert re.fullmatch(f"{MIDDLE}@0", pipeline.calls[-2]["face"])
