"""`python -m lipsync_lightning.latents shards=shards/mine`: shards with the latents and audio tokens that stage 1 trains on."""

from pathlib import Path

from omegaconf import DictConfig

from lipsync_lightning.cli import build, entry_point
from lipsync_lightning.data.encode import ClipEncoder, EncodedSoFar, encode_shards


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
    print(summary(encode_shards(config.shards, Path(config.out), encoder), config.out))


def summary(found: EncodedSoFar, out: str) -> str:
    """Return how far a data set has come, and what can be done with it now."""
    if found.num_elsewhere:
        return f"{found.num_done} shards with latents in {out}; {found.num_elsewhere} are still being encoded by other processes"
    train = f"train on them with an experiment that reads latents, such as +experiment=stage1_latents data.shards={out}"
    return f"{found.num_done} shards with latents in {out}; {train}"


if __name__ == "__main__":
    main()
