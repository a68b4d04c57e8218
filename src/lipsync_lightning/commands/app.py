"""`python -m lipsync_lightning.app model=<export>`: a page in the browser that lip-syncs a video."""

import html
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
from omegaconf import DictConfig

from lipsync_lightning.cli import one_sentence
from lipsync_lightning.commands.infer import ready_pipeline
from lipsync_lightning.errors import BadConfig, BadMedia, LipSyncError
from lipsync_lightning.media.strips import film_strip
from lipsync_lightning.media.video import open_media, probe, timed_frames
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline
from lipsync_lightning.pipeline.result import LipSyncResult

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing is told to anybody
try:
    import gradio as gr  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise BadConfig("the page needs gradio; pip install 'lipsync-lightning[app]'") from error

_BAR = "{percentage} {remaining} {desc}"
_PROGRESS = gr.Progress()  # what Gradio knows the parameter by


def run(config: DictConfig) -> None:
    pipeline = ready_pipeline(config)
    with TemporaryDirectory(prefix="lipsync_app_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of uploads and results
        launch(page(Jobs(pipeline, config)), config)


def launch(blocks: gr.Blocks, config: DictConfig, **options: Any) -> Any:
    """Serve a page until the process ends. Args: options: Gradio's own."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # none are fetched
    blocks.queue(max_size=config.max_waiting, default_concurrency_limit=1)
    options |= {"share": False, "allowed_paths": [], "run_history": False, "footer_links": [], "theme": theme}
    place = {"server_name": config.host, "server_port": config.port}
    try:
        return blocks.launch(**place, max_file_size=f"{config.max_mb}mb", **options)
    except OSError as error:
        raise BadConfig(f"port={config.port} is taken, or host={config.host} is not here; give another") from error


class Jobs:
    """What the page does, for anyone who has it open."""

    def __init__(self, pipeline: LipSyncPipeline, config: DictConfig) -> None:
        self.pipeline, self.config = pipeline, config
        self.unwanted: set[str | None] = set()  # sessions whose job is to end

    def want(self, request: gr.Request) -> None:
        self.unwanted.discard(request.session_hash)

    def cancel(self, request: gr.Request) -> None:
        self.unwanted.add(request.session_hash)

    def frame(self, video: str | None, seconds: float) -> np.ndarray | None:
        """Return the frame on which a person is chosen."""
        if video is None:
            return None
        with told_on_the_page(video):
            self._require_bearable(video)
            return _frame(video, seconds or 0.0)

    def click(self, video: str, seconds: float, place: gr.SelectData) -> tuple[str, np.ndarray]:
        """Return `face` for the person at a pixel, and the frame with a ring there."""
        (x, y), image = place.index, np.ascontiguousarray(self.frame(video, seconds))
        return f"{x},{y}@{seconds or 0:g}", cv2.circle(image, (x, y), max(4, len(image) // 40), (255, 0, 80), 3)

    def lipsync(
        self, request: gr.Request, progress: gr.Progress = _PROGRESS, *given: Any
    ) -> Iterator[tuple[str, np.ndarray, str]]:
        """Yield the result, its film strip, and what is said of it. Args: given: video, sound, then `CONTROLS`."""

        def go_on(pipeline: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if request.session_hash in self.unwanted:
                raise LipSyncError("cancelled; nothing was written")
            return tensors

        video, audio, *settings = given
        options = dict(zip(CONTROLS, settings, strict=True))
        options["end"] = options["end"] or None
        with TemporaryDirectory() as folder, told_on_the_page(video, audio):
            if video is None or audio is None:
                raise BadMedia("a video and a sound are needed; upload or record both")
            for path in (video, audio):
                self._require_bearable(path)
            go_on(None, 0, None, {})
            self.pipeline.set_progress_bar_config(file=_bar(progress), bar_format=_BAR, mininterval=0.5)
            out = Path(folder) / "result.mp4"
            result = self.pipeline(video, audio, out=out, callback_on_step_end=go_on, **options)
            yield str(out), _strip(Path(video), out, options["start"]), _told(result)

    def _require_bearable(self, path: str) -> None:
        """Raises: BadMedia, if it is no media, or more than this page takes."""
        with open_media(path) as container:
            lengths = [float((each.duration or 0) * (each.time_base or 0)) for each in container.streams]
            seconds = max([(container.duration or 0) / av.time_base, *lengths])
            pixels = max([0, *(each.width * each.height for each in container.streams.video)])
        if seconds > self.config.max_seconds or pixels > self.config.max_pixels:
            most = f"{self.config.max_seconds} s and {self.config.max_pixels / 1e6:g} million pixels"
            raise BadMedia(f"{path}: {seconds:.0f} s of {pixels / 1e6:.1f} million pixels; this page takes {most}")


def _bar(progress: gr.Progress) -> SimpleNamespace:
    """Return the file into which tqdm writes `_BAR`, to be shown as the page's own bar."""

    def write(text: str) -> None:
        if text.strip():
            percent, left, *what = text.split()
            progress(float(percent) / 100, desc=f"{' '.join(what)} {left} left")

    return SimpleNamespace(write=write, flush=lambda: None)


@contextmanager
def told_on_the_page(*uploads: str | None) -> Iterator[None]:
    """Show errors as one sentence, in which uploads have the names their user gave them."""
    try:
        yield
    except (LipSyncError, OSError) as error:
        sentence = one_sentence(error)
        for path in filter(None, uploads):
            sentence = sentence.replace(path, Path(path).name)
        raise gr.Error(html.escape(sentence), print_exception=False) from None


def _strip(source: Path, result: Path, start_s: float) -> np.ndarray:
    """Return the same moments of source and result, as far as both go."""
    shown = probe(result)
    seconds = min(probe(source).duration_s - start_s, shown.duration_s)
    moments, size = np.linspace(0, max(0.0, seconds - 0.1), 8), (round(200 * shown.width / shown.height), 200)
    rows = [
        [cv2.resize(_frame(path, first_s + each), size, interpolation=cv2.INTER_AREA) for each in moments]
        for path, first_s in ((source, start_s), (result, 0.0))
    ]
    return film_strip([np.stack(row) for row in rows])


def _frame(path: Path | str, seconds: float) -> np.ndarray:
    return next(iter(timed_frames(path, start_s=seconds))).image


def _told(result: LipSyncResult) -> str:
    lines = [f"{result.num_synced} of {result.num_frames} frames lip-synced, {result.seconds:.2f} s", *result.told]
    return "\n".join([*lines, *(f"{each.start_s:.2f}-{each.end_s:.2f} s: {each.reason}" for each in result.left_alone)])


CONTROLS: dict[str, Callable[[Any], Any]] = {  # as the command line names them
    "face": lambda own: gr.Textbox("largest", label="face", info="largest, speaking, or click on the person"),
    "length": lambda own: gr.Dropdown(["video", "audio", "shortest"], value="video", label="length"),
    "extend": lambda own: gr.Dropdown(["pingpong", "loop", "freeze"], value="pingpong", label="extend"),
    "start": lambda own: gr.Number(0, label="start", info="seconds"),
    "end": lambda own: gr.Number(0, label="end", info="seconds; 0: the whole video"),
    "seed": lambda own: gr.Number(0, label="seed", precision=0),
    "num_inference_steps": lambda own: gr.Number(own.num_inference_steps, label="num_inference_steps", precision=0),
    "guidance_scale": lambda own: gr.Number(own.guidance_scale, label="guidance_scale"),
    "speak_silence": lambda own: gr.Checkbox(False, label="speak_silence"),
    "crf": lambda own: gr.Slider(0, 51, 11, step=1, label="crf", info="less is better, and larger"),
}


def page(jobs: Jobs) -> gr.Blocks:
    with gr.Blocks(title="Lip sync", delete_cache=(600, 3600), analytics_enabled=False) as blocks:
        gr.Markdown("# Lip sync\nA video, and the sound it is to say. Files are deleted after an hour.")
        with gr.Row():
            video = gr.Video(label="video", sources=["upload", "webcam"], webcam_options=gr.WebcamOptions(mirror=False))
            result = gr.Video(label="result", interactive=False, elem_id="result")
        with gr.Row():
            audio = gr.Audio(label="sound", sources=["upload", "microphone"], type="filepath", buttons=[])
            with gr.Column():
                go, stop = gr.Button("Lip-sync", variant="primary"), gr.Button("Cancel", variant="stop")
                told = gr.Textbox(label="said of it", lines=2)
        with gr.Accordion("Who speaks: click on a face", open=True):
            seconds = gr.Number(0, label="frame at", info="seconds")
            picture = gr.Image(label="frame", interactive=False, elem_id="frame", buttons=[])
        with gr.Accordion("Settings", open=True), gr.Row():
            controls = [make(jobs.pipeline.config) for make in CONTROLS.values()]
        strip = gr.Image(label="source and result", interactive=False, buttons=["download"])

        gr.on([video.change, seconds.change], jobs.frame, [video, seconds], picture, show_progress="hidden")
        picture.select(jobs.click, [video, seconds], [controls[0], picture], show_progress="hidden")
        go.click(jobs.want, queue=False).then(jobs.lipsync, [video, audio, *controls], [result, strip, told])
        stop.click(jobs.cancel, queue=False)
        blocks.unload(jobs.cancel)
    return blocks
