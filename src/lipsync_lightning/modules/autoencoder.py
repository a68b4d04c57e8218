"""Autoencoders: the decoder of any of them learns, and the linear one is fitted in closed form."""

from typing import Any

from einops import rearrange
from torch import Tensor

from lipsync_lightning import diffusion
from lipsync_lightning.clip import ClipSpec, WindowBatch
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.losses.terms import StepOutput, WeightedLosses
from lipsync_lightning.models.autoencoder import Autoencoder, LinearAutoencoder, PatchMoments
from lipsync_lightning.models.weights_io import enable_checkpointing, frozen
from lipsync_lightning.modules import hooks
from lipsync_lightning.modules.rebuilding import RebuiltModule
from lipsync_lightning.modules.rng import ClipRNG


class AutoencoderModule(RebuiltModule):
    """Trains what only decodes, by any losses that compare frames. The encoder is frozen: latents stay what they are.

    Noise on the latents teaches the decoder to make clean frames of what few denoising steps leave.
    """

    frozen_parts = ("losses",)
    on_save_checkpoint = hooks.leave_out_frozen
    on_load_checkpoint = hooks.put_back_frozen

    def __init__(
        self,
        *,
        autoencoder: Autoencoder,
        losses: WeightedLosses,
        optimizer: hooks.OptimizerFactory,
        schedule: hooks.ScheduleFactory,
        clip: ClipSpec,
        most_latent_noise: float,
        gradient_checkpointing: bool,
    ) -> None:
        """Args:
            most_latent_noise: standard deviation of the noise, drawn for each clip from 0 to this.
            gradient_checkpointing: compute what decoder and losses compute again in backward instead of keeping it.
        Raises: BadConfig, for an autoencoder without a decoder that learns, or a noise that means nothing.
        """
        super().__init__()
        if not autoencoder.decoding:
            raise BadConfig(f"the decoder of {type(autoencoder).__name__} does not learn; take RefinedAutoencoder")
        if not most_latent_noise >= 0:
            raise BadConfig(f"{most_latent_noise=} is a standard deviation; give 0 or more")
        self.autoencoder = frozen(autoencoder)  # pyright: ignore[reportArgumentType]
        for part in autoencoder.decoding:
            part.requires_grad_(True)
        self.losses = losses
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = clip
        self.most_latent_noise = most_latent_noise
        if gradient_checkpointing:
            enable_checkpointing(self.autoencoder, self.losses)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return hooks.log_losses(self, "train", self.losses(self.reconstruct(batch)), batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        step = self.reconstruct(batch)  # the same draws at every validation
        hooks.log_losses(self, "val", self.losses(step), batch)
        hooks.log_validation(self, {"val/psnr": psnr(step.frames_pred, step.frames)}, batch)

    def reconstruct(self, batch: Any) -> StepOutput:
        """Return the frames, and those of their latents with noise."""
        rng = ClipRNG(batch["seed"], self.device)
        latents = diffusion.encode(self.autoencoder, batch["frames"], rng.generators)
        std_B = rng.on_device(self.most_latent_noise * rng.uniform()).float()
        noisy = latents + rearrange(std_B, "b -> b 1 1 1 1") * rng.normal(latents.shape[1:])
        frames_pred = diffusion.decode(self.autoencoder, noisy)
        return StepOutput(frames=batch["frames"], frames_pred=frames_pred, keep_mask=batch["keep_mask"])

    def configure_optimizers(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return hooks.optimizer_with_schedule(self, self.autoencoder)

    def load_weights(self, path: str, which: str | int = "last") -> None:
        """Raises: BadConfig: the encoder that stays as it is has to come along."""
        raise BadConfig(f"init_from={path}: name the autoencoder to start from by module.autoencoder.path")


class LinearAutoencoderModule(RebuiltModule):
    """Adds up the moments of frames and solves for the principal components after every step. Logs `train/psnr`."""

    frozen_parts = ()
    on_save_checkpoint = hooks.leave_out_frozen
    on_load_checkpoint = hooks.put_back_frozen

    def __init__(self, *, autoencoder: LinearAutoencoder, clip: ClipSpec) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.autoencoder = autoencoder
        self.moments = PatchMoments(patch=autoencoder.config["patch"])
        self.clip = clip

    def training_step(self, batch: WindowBatch, batch_idx: int) -> None:
        frames_NCHW = rearrange(batch["frames"], "b t c h w -> (b t) c h w")
        self.moments.update(frames_NCHW)
        self.autoencoder.fit_from_moments(self.moments.count, self.moments.total, self.moments.outer)
        self.log("train/psnr", psnr(self.autoencoder(frames_NCHW), frames_NCHW), prog_bar=True)

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:
        frames_NCHW = rearrange(batch["frames"], "b t c h w -> (b t) c h w")
        hooks.log_validation(self, {"val/psnr": psnr(self.autoencoder(frames_NCHW), frames_NCHW)}, batch)

    def configure_optimizers(self) -> None:
        """There is nothing to descend."""


def psnr(made: Tensor, real: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of frames in [-1, 1], of which the peak is 2."""
    return 10 * (4 / (made.float() - real.float()).square().mean()).log10()
