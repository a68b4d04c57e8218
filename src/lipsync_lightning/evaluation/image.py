"""How close generated mouths are to the real ones, measured where the model paints and nowhere else."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.functional.image import structural_similarity_index_measure

from lipsync_lightning.models.weights_io import frozen

DATA_RANGE = 2.0  # of frames in [-1, 1]
LPIPS_MIN_SIDE = 64  # pixels; VGG halves a picture four times
LPIPS_FRAMES_AT_ONCE = 16
LPIPS_EVERY = 5  # frames; neighbours look alike, and the network is what takes the time


class MouthQuality(Metric):
    """PSNR, SSIM and LPIPS of the generated region, each a mean over clips.

    PSNR reads only pixels the model made, pooled over a clip's frames; SSIM and LPIPS, which need a rectangle, read the
    smallest one around them. Pixels that the model was given would flatter all three.
    """

    is_differentiable = False
    full_state_update = False

    psnr: Tensor
    ssim: Tensor
    lpips: Tensor
    num_clips: Tensor

    def __init__(self, *, lpips_network: nn.Module) -> None:
        """Args: lpips_network: (generated, real), both (N, 3, H, W) in [-1, 1], -> N distances, as `lpips.LPIPS` is."""
        super().__init__()
        self.lpips_network = frozen(lpips_network)
        for name in ("psnr", "ssim", "lpips", "num_clips"):
            self.add_state(name, default=torch.zeros(()), dist_reduce_fx="sum")

    def update(self, generated: Tensor, real: Tensor, keep_mask: Tensor) -> None:
        """Add one clip.

        Args:
            generated, real: (T, 3, H, W) in [-1, 1].
            keep_mask: (H, W), 0 where the model made the picture.
        Raises: ValueError, if shapes differ or the mask keeps every pixel.
        """
        if generated.shape != real.shape or generated.shape[2:] != keep_mask.shape:
            shapes = [tuple(each.shape) for each in (generated, real, keep_mask)]
            raise ValueError(f"generated and real frames (T, 3, H, W) and their mask (H, W) must fit, got {shapes}")
        made = (keep_mask == 0).to(generated.device)
        rows, columns = bounding_box(made)
        generated_box, real_box = generated[:, :, rows, columns].float(), real[:, :, rows, columns].float()
        squared_error = (generated.float() - real.float())[:, :, made].square().mean()
        similarity = structural_similarity_index_measure(generated_box, real_box, data_range=DATA_RANGE)
        assert isinstance(similarity, Tensor)
        self.psnr += 10 * torch.log10(DATA_RANGE**2 / squared_error)
        self.ssim += similarity
        self.lpips += self._perceptual_distance(generated_box[::LPIPS_EVERY], real_box[::LPIPS_EVERY])
        self.num_clips += 1

    def compute(self) -> dict[str, Tensor]:
        """Return psnr (dB, infinite for identical clips), ssim (1 = identical) and lpips (0 = identical), means over clips."""
        return {
            "psnr": self.psnr / self.num_clips,
            "ssim": self.ssim / self.num_clips,
            "lpips": self.lpips / self.num_clips,
        }

    def _perceptual_distance(self, generated_NCHW: Tensor, real_NCHW: Tensor) -> Tensor:
        self.lpips_network.eval()  # a metric inside a module in training is switched with it, and LPIPS has dropout
        pairs = zip(generated_NCHW.split(LPIPS_FRAMES_AT_ONCE), real_NCHW.split(LPIPS_FRAMES_AT_ONCE), strict=True)
        return torch.cat([self.lpips_network(enlarged(one), enlarged(other)).flatten() for one, other in pairs]).mean()


def bounding_box(inside: Tensor) -> tuple[slice, slice]:
    """Return rows and columns of the smallest rectangle around the True pixels of (H, W). Raises: ValueError, if none is."""
    rows, columns = inside.any(dim=1).nonzero().flatten(), inside.any(dim=0).nonzero().flatten()
    if len(rows) == 0:
        raise ValueError(
            "the mask keeps every pixel, so there is nothing generated to measure; pass the mask the video was made with"
        )
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def enlarged(images: Tensor) -> Tensor:
    """Return (N, C, H, W) images with their smaller side at least `LPIPS_MIN_SIDE` pixels, proportions kept."""
    height, width = images.shape[2:]
    factor = LPIPS_MIN_SIDE / min(height, width)
    if factor <= 1:
        return images
    return F.interpolate(images, size=(round(height * factor), round(width * factor)), mode="bilinear")
