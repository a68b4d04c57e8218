"""`python -m lipsync_lightning.evaluate +models.mine=<export> videos=<folder> data.shards=<folder> out=<folder>`: judge exports."""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from lipsync_lightning.cli import build, entry_point
from lipsync_lightning.clip import ClipSpec, WindowBatch
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.errors import BadConfig, BadMedia
from lipsync_lightning.evaluation.suite import CONDITIONS, Judge, Row, Speech, TestVideo, mean_of, test_videos
from lipsync_lightning.evaluation.sync_pairs import heldout_accuracy
from lipsync_lightning.files import write_atomically
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.strips import film_strip, save_png
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline, load_pipeline


def judge_real(judge: Judge, tests: list[TestVideo]) -> list[Row]:
    """Return the scores of the untouched videos with their own speech: the ceiling of every measure."""
    names = {"system": "real video", "condition": "own speech"}
    return [
        {**names, "person": test.path.stem, "speech": test.own.name}
        | judge.following(judge.aligned(test.path, test.path), test.own, test.own)
        for test in tests
    ]


def judge_system(
    name: str, pipeline: LipSyncPipeline, conditions: list[str], judge: Judge, tests: list[TestVideo], out: Path
) -> list[Row]:
    """Lip-sync every test video under every condition, and return the scores. Videos and film strips go to `out/evaluation`."""
    rows = []
    for condition, test in product(conditions, tests):
        said: Speech = getattr(test, CONDITIONS[condition])
        video = out / "evaluation" / f"{name}_{CONDITIONS[condition]}_{test.path.stem}.mp4"
        pipeline(video=test.path, audio=said.sound, out=video, faces=judge.faces)
        made, real = judge.aligned(video, test.path), judge.aligned(test.path, test.path)
        scores = judge.following(made, said, test.own)
        if said is test.own:  # there is no real video of other words to compare with
            scores |= judge.closeness(made, real, pipeline.config["mask"])
        strip = video.with_suffix(".png")
        save_strip(strip, made, real, pipeline.config["mask"])
        names = {"system": name, "condition": condition, "person": test.path.stem, "speech": said.name}
        rows.append(names | scores | {"video": str(video.relative_to(out)), "strip": str(strip.relative_to(out))})
    return rows


def save_strip(path: Path, made: np.ndarray, real: np.ndarray, mask: str) -> None:
    """Save real, masked and generated aligned faces, one row each."""
    keep = keep_mask(real.shape[1], mask).numpy()[None, :, :, None]
    masked = (real * keep + 127.5 * (1 - keep)).astype(np.uint8)
    save_png(path, film_strip([real, masked, made]))


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
            ("mouth_correlation_chance", "mouth_correlation_chance", "other speech"),
            ("mouth_correlation_shuffled", "mouth_correlation", "shuffled speech"),
            ("mouth_correlation_reconstruction", "mouth_correlation", "own speech"),
            ("sync_confidence_cross", "sync_confidence", "other speech"),
            ("psnr_mouth_reconstruction", "psnr", "own speech"),
            ("ssim_mouth_reconstruction", "ssim", "own speech"),
            ("lpips_mouth_reconstruction", "lpips", "own speech"),
        ):
            figures[key + suffix] = mean_of(rows, column, system=system, condition=condition)
    figures = {key: value for key, value in figures.items() if value is not None}
    if {"mouth_correlation_cross", "mouth_correlation_real"} <= set(figures):
        figures["mouth_correlation_cross_share"] = (
            figures["mouth_correlation_cross"] / figures["mouth_correlation_real"]
        )
    return figures


def chosen_videos(folder: Path, num_videos: int) -> list[Path]:
    """Return `num_videos` videos of a folder, evenly spread over their sorted names."""
    videos = sorted(folder.glob("*.mp4"))
    if len(videos) < num_videos:
        raise BadMedia(
            f"videos={folder}: {num_videos} mp4 files wanted, {len(videos)} there; give another folder or num_videos="
        )
    return [videos[int(position)] for position in np.linspace(0, len(videos), num_videos, endpoint=False)]


def float_batches(data: ClipDataModule, loader: Any) -> Iterator[WindowBatch]:
    return (data.on_after_batch_transfer(batch, 0) for batch in loader)  # pyright: ignore[reportReturnType]


@entry_point("evaluate")
def main(config: DictConfig) -> None:
    if not config.models:
        raise BadConfig("models is empty: name at least one export, such as +models.mine=<export folder>")
    out, clip = Path(config.out), build(config.clip)
    data: ClipDataModule = build(config.data)
    data.require_shards("train", "heldout")
    pipelines = {str(name): load_checked(path, clip).to(config.device) for name, path in config.models.items()}
    judge = Judge(
        syncnet=build(config.syncnet).to(config.device),
        lpips_network=build(config.lpips),
        faces=build(config.faces),
        clip=clip,
    )
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
    write_atomically(out / "metrics.json", json.dumps(metrics, indent=1).encode())
    for key, value in figures.items():
        print(f"{key}: {value:.3f}" + (f" (at least {bars[key]:g})" if key in bars else ""))


def load_checked(folder: str, clip: ClipSpec) -> LipSyncPipeline:
    """Return an export's pipeline. Raises: MissingWeights, WrongWeights; ClipMismatch, if it was not made for `clip`."""
    pipeline = load_pipeline(folder)
    pipeline.clip.require_equal(clip, folder, "this evaluation")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


if __name__ == "__main__":
    main()
