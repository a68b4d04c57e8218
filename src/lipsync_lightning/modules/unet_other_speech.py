"""Stage 2 that also hears speech nobody filmed: what the mouth should look like is then known to SyncNet alone."""

from functools import cache

import torch
from torch import Tensor

from lipsync_lightning import diffusion
from lipsync_lightning.clip import ClipBatch
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.modules.denoising import DenoisingStep, LossInputs
from lipsync_lightning.modules.unet_stage2 import UNetStage2Module


class OtherSpeechStage2Module(UNetStage2Module):
    """Serves the terms of stage 2 and `sync_other`: the batch's next clip's speech, said by the one-step estimate from pure noise.

    From pure noise nothing of the real mouth is left to read off, as at the first step of inference. The term needs no ground truth;
    it is this library's own idea, not the paper's.
    """

    def loss_inputs(self, batch: ClipBatch, step: DenoisingStep) -> LossInputs:
        @cache
        def frames_of_other_speech() -> Tensor:
            return self.decode(self.clean_from_noise(step, batch["audio"].roll(1, dims=0)))

        def sync_other() -> tuple[Tensor, Tensor]:
            if len(batch["mel"]) < 2:
                raise BadConfig("the loss term sync_other borrows the speech of the batch's other clips; set data.batch_size to 2 or more")
            return frames_of_other_speech(), batch["mel"].roll(1, dims=0)

        return {**super().loss_inputs(batch, step), "sync_other": sync_other}

    def clean_from_noise(self, step: DenoisingStep, audio: Tensor) -> Tensor:
        """Return the one-step estimate of clean latents (B, T, C, h, w) from the step's noise alone, saying `audio` (B, T, A, D)."""
        last = torch.full_like(step.timesteps, self.scheduler.config["num_train_timesteps"] - 1)
        prediction = self.predict(step.noise, step.shown, last, audio)
        return diffusion.predict_clean(self.scheduler, prediction, step.noise, last)
