"""`python -m lipsync_lightning.latents shards=shards/mine`: shards with the latents and audio tokens that stage 1 trains on."""

from pathlib import Path

from omegaconf import DictConfig

from lipsync_lightning.data.encode import ClipEncoder, encode_shards
from lipsync_lightning.entry import build, entry_point


@entry_point("latents")
def main(config: DictConfig) -> None:
    encoder = ClipEncoder(
        clip=build(config.clip),
        autoencoder=build(config.autoencoder).to(config.device).eval(),
        audio_encoder=build(config.audio_encoder),
        mask=config.mask,
        batch_size=config.batch_size,
        device=config.device,
    )
    number = encode_shards(config.shards, Path(config.out), encoder)
    print(f"{number} shards with latents in {config.out}; train on them with +experiment=stage1_latents data.shards={config.out}")


if __name__ == "__main__":
    main()
