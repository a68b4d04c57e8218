"""`python -m lipsync_lightning.judge run=<run of a U-Net> videos=<folder> syncnet.path=<folder>`: quick scores of a training run."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lipsync_lightning.cli import build, entry_point
from lipsync_lightning.evaluate import chosen_videos
from lipsync_lightning.evaluation.aligned import judged_on_aligned_faces
from lipsync_lightning.evaluation.suite import Judge, Row, mean_of, test_videos
from lipsync_lightning.export import pipeline_of_run
from lipsync_lightning.files import write_atomically

FIGURES = {
    "sync_confidence": ("sync_confidence", "other speech"),
    "mouth_correlation": ("mouth_correlation", "other speech"),
    "mouth_correlation_old": ("mouth_correlation_old", "other speech"),
    "mouth_correlation_chance": ("mouth_correlation_chance", "other speech"),
    "mouth_correlation_shuffled": ("mouth_correlation", "shuffled speech"),
    "sync_confidence_shuffled": ("sync_confidence", "shuffled speech"),
    "sync_confidence_own": ("sync_confidence", "own speech"),
    "psnr": ("psnr", "own speech"),
    "ssim": ("ssim", "own speech"),
    "temporal_error": ("temporal_error", "own speech"),
}


def figures_of(rows: list[Row]) -> dict[str, float]:
    """Return the means to quote: of what was generated, and with `_real` at the end of the untouched videos."""
    figures = {
        name: mean_of(rows, key, system="generated", condition=condition) for name, (key, condition) in FIGURES.items()
    }
    figures |= {
        f"{key}_real": mean_of(rows, key, system="real video") for key in ("sync_confidence", "mouth_correlation")
    }
    return {name: value for name, value in figures.items() if value is not None}


@entry_point("judge")
def main(config: DictConfig) -> None:
    run = Path(config.run)
    pipeline = pipeline_of_run(run, config.num_inference_steps, config.guidance_scale, "previous_window").to(
        config.device
    )
    judge = Judge(
        syncnet=build(config.syncnet).to(config.device),
        lpips_network=build(config.lpips),
        faces=build(config.faces),
        clip=pipeline.clip,
    )
    tests = test_videos(
        chosen_videos(Path(config.videos), config.num_videos), run / "judged", pipeline.clip.sample_rate_hz
    )
    region = pipeline.config["mask"] if config.compared_region is None else config.compared_region
    rows = judged_on_aligned_faces(pipeline, judge, tests, region, config.seed)
    figures = figures_of(rows)
    settings: Any = OmegaConf.to_container(config, resolve=True)
    settings.pop("run")
    write_atomically(
        run / config.scores, json.dumps({**figures, "settings": settings, "rows": rows}, indent=1).encode()
    )
    print(f"{run}: " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
