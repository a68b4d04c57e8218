"""The closed-form fit of the linear autoencoder, as a Lightning run like any other."""

from einops import rearrange
from lightning import LightningModule
from torch import Tensor

from lipsync_lightning.clip import ClipSpec, WindowBatch
from lipsync_lightning.models.autoencoder import LinearAutoencoder, PatchMoments
from lipsync_lightning.modules import hooks


class LinearAutoencoderModule(LightningModule):
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
        self.log("train/psnr", self._psnr(frames_NCHW), prog_bar=True)

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:
        frames_NCHW = rearrange(batch["frames"], "b t c h w -> (b t) c h w")
        self.log("val/psnr", self._psnr(frames_NCHW), batch_size=len(batch["frames"]))

    def configure_optimizers(self) -> None:
        """There is nothing to descend."""

    def _psnr(self, frames_NCHW: Tensor) -> Tensor:
        error = (self.autoencoder(frames_NCHW) - frames_NCHW).square().mean()
        return 10 * (4 / error).log10()  # the range [-1, 1] has a peak of 2
