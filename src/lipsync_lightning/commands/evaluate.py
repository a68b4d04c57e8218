"""`python -m lipsync_lightning.evaluate +models.mine=<export or run> videos=<folder> out=<folder>`: judge models."""

import json
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig

from lipsync_lightning.cli import build
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.commands.export import pipeline_of_run
from lipsync_lightning.commands.infer import device_and_dtype
from lipsync_lightning.commands.report import write_report
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.errors import BadMedia
from lipsync_lightning.evaluation import suite
from lipsync_lightning.evaluation.metrics import REAL, comparison
from lipsync_lightning.evaluation.suite import CONDITIONS, OWN, SHUFFLED, Row, aligned_faces
from lipsync_lightning.evaluation.sync import OwnSyncScorer, pair_accuracy
from lipsync_lightning.files import VIDEO_ENDINGS, write_atomically
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.people import People
from lipsync_lightning.media.strips import film_strip, save_png
from lipsync_lightning.modules.weights import RUN_CONFIG
from lipsync_lightning.pipeline.fitness import EVERY_FRAME
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline, load_pipeline


def chosen_videos(folder: Path, num_videos: int) -> list[Path]:
    """Return `num_videos` videos of a folder, evenly spread over their sorted names. Raises: BadMedia."""
    videos = sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in VIDEO_ENDINGS)
    if len(videos) < num_videos:
        found = f"{num_videos} videos ({', '.join(VIDEO_ENDINGS)}) wanted, {len(videos)} there"
        raise BadMedia(f"videos={folder}: {found}; give another folder or num_videos=")
    return [videos[int(place)] for place in np.linspace(0, len(videos), num_videos, endpoint=False)]


def loaded(folder: str, clip: ClipSpec, config: DictConfig) -> LipSyncPipeline:
    """Return the pipeline of an export, or of a training run. Raises: ClipMismatch, if it was not made for `clip`."""
    is_run = (Path(folder) / RUN_CONFIG).is_file()
    pipeline = pipeline_of_run(Path(folder), **config.of_runs) if is_run else load_pipeline(folder)
    pipeline.clip.require_equal(clip, folder, "this evaluation")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.place(*device_and_dtype(config.device, config.dtype))


def scores_of_real(judge: suite.Judge, test: suite.TestVideo, faces: People) -> Row:
    """Return how well an untouched video follows its own speech: the ceiling of every score."""
    real, own = aligned_faces(test.path, test.path, faces, judge.clip), test.speech[OWN]
    names = {"system": REAL, "condition": OWN, "person": test.path.stem, "speech": own.name}
    return names | judge.following(real, own, own)


def scores_of_system(
    name: str,
    pipeline: LipSyncPipeline,
    judge: suite.Judge,
    tests: list[suite.TestVideo],
    faces: People,
    config: DictConfig,
) -> list[Row]:
    """Return the scores of every test video under every condition; videos and film strips go to `out/evaluation`."""
    out, rows, mask = Path(config.out), [], pipeline.config["mask"]
    keep_HW1 = keep_mask(judge.clip.resolution, mask).numpy()[:, :, None]
    is_under_test = name == list(config.models)[-1]
    for condition, test in product(CONDITIONS, tests):
        if condition == SHUFFLED and not is_under_test:
            continue
        said, own = test.speech[condition], test.speech[OWN]
        video = out / "evaluation" / f"{name}_{condition.split()[0]}_{test.path.stem}.mp4"
        pipeline(
            test.path, said.sound, out=video, faces=faces, seed=config.seed, speak_silence=True, fitness=EVERY_FRAME
        )
        made, real = (aligned_faces(path, test.path, faces, judge.clip) for path in (video, test.path))
        scores = judge.following(made, said, own)
        if condition == OWN:  # there is no real video of other words to compare with
            scores |= judge.closeness(made, real, config.compared_region or mask, pipeline.autoencoder.downscale)
        masked = np.where(keep_HW1 > 0.5, real, np.uint8(127))
        strip = video.with_suffix(".png")
        save_png(strip, film_strip([real, masked, made]))
        names = {"system": name, "condition": condition, "person": test.path.stem, "speech": said.name}
        rows.append(names | scores | {"video": str(video.relative_to(out)), "strip": str(strip.relative_to(out))})
    return rows


def run(config: DictConfig) -> None:
    torch.manual_seed(config.seed)  # LPIPS may stand on a random network
    out, clip, faces, scorer = Path(config.out), build(config.clip), build(config.faces), build(config.syncnet)
    judge = suite.Judge(scorer=scorer, lpips_network=build(config.lpips), clip=clip, device=config.device)
    pipelines = {str(name): loaded(path, clip, config) for name, path in config.models.items()}
    videos = chosen_videos(Path(config.videos), config.num_videos)
    data: ClipDataModule | None = None
    if isinstance(scorer, OwnSyncScorer) and config.data.shards is not None:
        data = cast(ClipDataModule, build(config.data))
        data.require_shards("heldout")
    tests = suite.test_videos(videos, out / "evaluation", faces, clip)
    rows = [scores_of_real(judge, test, faces) for test in tests]
    for name, pipeline in pipelines.items():
        rows += scores_of_system(name, pipeline, judge, tests, faces, config)
    figures, bars = suite.figures_of(rows), dict(config.bars or {})
    if data is not None:
        heldout: Any = (data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader())
        figures[REAL] |= pair_accuracy(scorer.network, heldout)
    write_atomically(out / "metrics.json", json.dumps({"figures": figures, "bars": bars, "rows": rows}).encode())
    print(*comparison(figures, bars).lines(), sep="\n")
    print(write_report(out))
