"""Stage 1: the U-Net learns to fill in the mouth, frame by frame, from noise alone."""

from lipsync_lightning.clip import ClipBatch
from lipsync_lightning.modules.denoising import DenoisingModule, DenoisingStep, LossInputs


class UNetStage1Module(DenoisingModule):
    """Trains the whole U-Net on the diffusion target. Serves the loss term `noise`."""

    def loss_inputs(self, batch: ClipBatch, step: DenoisingStep) -> LossInputs:
        return {"noise": lambda: (step.prediction, step.target)}
