"""`python -m lipsync_lightning.latents shards=shards/mine`: shards with latents and audio states."""

from pathlib import Path

from omegaconf import DictConfig

from lipsync_lightning.cli import build
from lipsync_lightning.data.encode import ClipEncoder, encode_shards


def run(config: DictConfig) -> None:
    encoder = ClipEncoder(
        clip=build(config.clip),
        autoencoder=build(config.autoencoder),
        audio_encoder=build(config.audio_encoder),
        **{key: config[key] for key in ("mask", "batch_size", "device", "dtype")},
    )
    num_done, num_elsewhere = encode_shards(config.shards, Path(config.out), encoder)
    told = (
        f"{num_elsewhere} are still being encoded by other processes"
        if num_elsewhere
        else "train on them with an experiment that reads latents, such as +experiment=stage1_latents "
        f"data.shards={config.out}"
    )
    print(f"{num_done} shards with latents in {config.out}; {told}")
