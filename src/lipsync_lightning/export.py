"""`python -m lipsync_lightning.export run=runs/stage2 out=exports/mine`: a run becomes a folder that diffusers and the pipeline load."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lipsync_lightning.cli import build, entry_point
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, MissingWeights, WrongWeights
from lipsync_lightning.files import whole_folder
from lipsync_lightning.modules.weights import RUN_CONFIG, network_weights
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline


def run_config(run: Path) -> DictConfig:
    """Return the configuration a run was started with.

    Raises: MissingWeights, if the folder holds no run; BadConfig, if the run trained no U-Net.
    """
    path = run / RUN_CONFIG
    if not path.is_file():
        raise MissingWeights(
            f"run={run} holds no training run (no {path.relative_to(run)}); give the run_dir of a training"
        )
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    if "module" not in config:
        raise MissingWeights(
            f"run={run} holds no training run ({path} configures something else); give the run_dir of a training"
        )
    if "unet" not in config.module:
        name = config.module._target_.split(".")[-1]
        raise BadConfig(
            f"run={run} trained no U-Net but {name}: exports and judging are for the stages; its network lies in {run}, for from_pretrained"
        )
    return config


def pipeline_of_run(run: Path, num_inference_steps: int, guidance_scale: float, reference: str) -> LipSyncPipeline:
    """Return the pipeline with a run's newest U-Net. Raises: as `run_config`, and WrongWeights."""
    config = run_config(run)
    unet = build(config.module.unet)
    try:
        unet.load_state_dict(network_weights(str(run), "unet"))
    except RuntimeError as error:
        raise WrongWeights(
            f"run={run}: its weights are not those of the U-Net it configures ({str(error).splitlines()[0]})"
        ) from error
    clip: ClipSpec = build(config.clip)
    return LipSyncPipeline(
        unet=unet.eval(),
        autoencoder=build(config.module.autoencoder),
        audio_encoder=build(config.audio_encoder),
        scheduler=build(config.module.scheduler),
        clip=clip.as_dict(),
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        reference=reference,
        mask=OmegaConf.select(
            config, "data.samples.mask", default="released"
        ),  # runs from before there was a choice have the released one
    )


@entry_point("export")
def main(config: DictConfig) -> None:
    pipeline = pipeline_of_run(Path(config.run), config.num_inference_steps, config.guidance_scale, config.reference)
    with whole_folder(Path(config.out)) as folder:
        pipeline.save_pretrained(folder)
    print(f"exported {config.run} to {config.out}")


if __name__ == "__main__":
    main()
