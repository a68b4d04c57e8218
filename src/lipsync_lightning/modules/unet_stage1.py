"""Stage 1: the U-Net learns to fill in the mouth, frame by frame, from noise alone."""

from lipsync_lightning.modules.denoising import DenoisingModule


class UNetStage1Module(DenoisingModule):
    """Trains the whole U-Net on the diffusion target. Serves the loss terms `noise` and `noise_min_snr`."""
