"""`python -m lipsync_lightning.evaluate models.mine=<export> videos=<folder> syncnet=<folder> shards=<folder> out=<folder>`: judge exports."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from lipsync_lightning.clip import ClipBatch, ClipSpec
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.entry import build, entry_point
from lipsync_lightning.errors import BadConfig, BadMedia
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.metrics.suite import Judge, Row, Speech, TestVideo, aligned_faces, mean_of, test_videos
from lipsync_lightning.metrics.sync_pairs import heldout_accuracy
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline, load_pipeline
from lipsync_lightning.reporting.strips import film_strip, save_png

CONDITIONS = {"own speech": "own", "other speech": "other", "shuffled speech": "shuffled"}


def judge_real(judge: Judge, tests: list[TestVideo]) -> list[Row]:
    """Return the scores of the untouched videos with their own speech: the ceiling of every measure."""
    rows = []
    for test in tests:
        scores = judge.score(test.path, test.path, test.own, test.own)
        meaningful = {key: value for key, value in scores.items() if key not in ("psnr", "ssim", "lpips")}
        rows.append({"system": "real video", "condition": "own speech", "person": test.path.stem, "speech": test.own.name, **meaningful})
    return rows


def judge_system(name: str, pipeline: LipSyncPipeline, conditions: list[str], judge: Judge, tests: list[TestVideo], out: Path) -> list[Row]:
    """Lip-sync every test video under every condition, and return the scores. Videos and film strips go to `out/evaluation`."""
    rows = []
    for condition in conditions:
        for test in tests:
            said: Speech = getattr(test, CONDITIONS[condition])
            stem = f"{name}_{CONDITIONS[condition]}_{test.path.stem}"
            video = out / "evaluation" / f"{stem}.mp4"
            pipeline(video=test.path, audio=said.sound, out=video, faces=judge.faces)
            strip = out / "evaluation" / f"{stem}.png"
            save_strip(strip, video, test.path, judge)
            scores = judge.score(video, test.path, said, test.own)
            if condition != "own speech":  # there is no real video of these words to compare with
                scores = {key: value for key, value in scores.items() if key not in ("psnr", "ssim", "lpips")}
            names = {"system": name, "condition": condition, "person": test.path.stem, "speech": said.name}
            rows.append(names | scores | {"video": str(video.relative_to(out)), "strip": str(strip.relative_to(out))})
    return rows


def save_strip(path: Path, video: Path, original: Path, judge: Judge) -> None:
    """Save real, masked and generated aligned faces, one row each."""
    real = aligned_faces(original, original, judge.faces, judge.clip)
    keep = keep_mask(judge.clip.resolution).numpy()[None, :, :, None]
    masked = (real * keep + 127.5 * (1 - keep)).astype(np.uint8)
    save_png(path, film_strip([real, masked, aligned_faces(video, original, judge.faces, judge.clip)]))


def headline(rows: list[Row], systems: list[str]) -> dict[str, float]:
    """Return the figures to quote: of the last system, and of the earlier ones with their name at the end of the key."""
    figures = {
        "mouth_correlation_real": mean_of(rows, "mouth_correlation", system="real video"),
        "sync_confidence_real": mean_of(rows, "sync_confidence", system="real video"),
    }
    for system in systems:
        suffix = "" if system == systems[-1] else f"_{system}"
        for key, column, condition in (
            ("mouth_correlation_cross", "mouth_correlation", "other speech"),
            ("mouth_correlation_old", "mouth_correlation_old", "other speech"),
            ("mouth_correlation_shuffled", "mouth_correlation", "shuffled speech"),
            ("mouth_correlation_reconstruction", "mouth_correlation", "own speech"),
            ("sync_confidence_cross", "sync_confidence", "other speech"),
            ("psnr_mouth_reconstruction", "psnr", "own speech"),
            ("ssim_mouth_reconstruction", "ssim", "own speech"),
            ("lpips_mouth_reconstruction", "lpips", "own speech"),
        ):
            figures[key + suffix] = mean_of(rows, column, system=system, condition=condition)
    return {key: value for key, value in figures.items() if value is not None}


def chosen_videos(folder: Path, num_videos: int) -> list[Path]:
    """Return `num_videos` videos of a folder, evenly spread over their sorted names."""
    videos = sorted(folder.glob("*.mp4"))
    if len(videos) < num_videos:
        raise BadMedia(f"videos={folder}: {num_videos} mp4 files wanted, {len(videos)} there; give another folder or num_videos=")
    return [videos[int(position)] for position in np.linspace(0, len(videos), num_videos, endpoint=False)]


def float_batches(data: ClipDataModule, loader: Any) -> Iterator[ClipBatch]:
    return (data.on_after_batch_transfer(batch, 0) for batch in loader)  # pyright: ignore[reportReturnType]


@entry_point("evaluate")
def main(config: DictConfig) -> None:
    out, clip = Path(config.out), build(config.clip)
    data: ClipDataModule = build(config.data)
    data.require_shards()
    pipelines = {str(name): load_checked(path, clip) for name, path in config.models.items()}
    judge = Judge(syncnet=build(config.syncnet), lpips_network=build(config.lpips), faces=build(config.faces), clip=clip)
    tests = test_videos(chosen_videos(Path(config.videos), config.num_videos), out / "evaluation", clip.sample_rate_hz)
    training, heldout = float_batches(data, data.train_dataloader()), float_batches(data, data.val_dataloader())
    figures = heldout_accuracy(judge.syncnet, training, heldout, config.num_threshold_batches)
    rows = judge_real(judge, tests)
    last = list(pipelines)[-1]
    for name, pipeline in pipelines.items():
        conditions = list(CONDITIONS) if name == last else ["own speech", "other speech"]
        rows += judge_system(name, pipeline, conditions, judge, tests, out)
    figures |= headline(rows, list(pipelines))
    bars = {key: value for key, value in config.bars.items() if key in figures}
    metrics = {**figures, "bars": bars, "rows": rows}
    part = out / "metrics.json.part"
    part.write_text(json.dumps(metrics, indent=1))
    part.replace(out / "metrics.json")
    for key, value in figures.items():
        print(f"{key}: {value:.3f}" + (f" (at least {bars[key]:g})" if key in bars else ""))


def load_checked(folder: str, clip: ClipSpec) -> LipSyncPipeline:
    """Return an export's pipeline. Raises: BadConfig or ClipMismatch, if it was not made for `clip`."""
    if not folder:
        raise BadConfig("models needs at least one entry, such as models.mine=<export folder>")
    pipeline = load_pipeline(folder)
    pipeline.clip.require_equal(clip, folder, "this evaluation")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


if __name__ == "__main__":
    main()
