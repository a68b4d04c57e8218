"""How close generated mouths are to the real ones, measured where the model paints and nowhere else."""

from collections.abc import Iterable
from math import inf, log10

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image import structural_similarity_index_measure
from torchvision.ops import masks_to_boxes

DATA_RANGE = 2.0  # of frames in [-1, 1]
LPIPS_MIN_SIDE = 64  # pixels; VGG halves a picture four times
LPIPS_EVERY = 5  # frames; neighbours look alike, and the network is what takes the time
FRAMES_AT_ONCE = 8 * LPIPS_EVERY


@torch.no_grad()
def mouth_quality(
    pieces: Iterable[tuple[Tensor, Tensor]], keep_mask: Tensor, lpips_network: nn.Module
) -> dict[str, float]:
    """Return `psnr` (dB, infinite for identical clips), `ssim` (1 = identical) and `lpips` (0 = identical) of one clip.

    PSNR reads only pixels the model made, pooled over the frames; SSIM and LPIPS, which need a rectangle, read the
    smallest one around them. Pixels that the model was given would flatter all three.

    Args:
        pieces: the clip's generated and real frames, both (N, 3, H, W) in [-1, 1]; `FRAMES_AT_ONCE`, fewer in the last.
        keep_mask: (H, W), 0 where the model made the picture.
        lpips_network: frozen; (generated, real), both (N, 3, H, W) in [-1, 1], -> N distances, as `lpips.LPIPS` is.
    """
    made = keep_mask == 0
    left, top, right, bottom = masks_to_boxes(made[None])[0].int().tolist()
    box = (..., slice(top, bottom + 1), slice(left, right + 1))
    squares, ssim, distances = [], [], []
    for generated, real in pieces:
        squares.append((generated[:, :, made] - real[:, :, made]).double().square().mean(dim=(1, 2)))
        given, wanted = generated[box], real[box]
        ssim.append(structural_similarity_index_measure(given, wanted, reduction="none", data_range=DATA_RANGE))
        pairs = torch.cat([given[::LPIPS_EVERY], wanted[::LPIPS_EVERY]], dim=1)
        factor = max(1.0, LPIPS_MIN_SIDE / min(pairs.shape[2:]))
        size = [round(factor * side) for side in pairs.shape[2:]]
        enlarged = F.interpolate(pairs, size=size, mode="bilinear")
        distances.append(lpips_network(*enlarged.split(3, dim=1)).flatten())
    mean_square, similarity, distance = (float(torch.cat(each).mean()) for each in (squares, ssim, distances))
    psnr = 10 * log10(DATA_RANGE**2 / mean_square) if mean_square else inf
    return {"psnr": psnr, "ssim": similarity, "lpips": distance}
