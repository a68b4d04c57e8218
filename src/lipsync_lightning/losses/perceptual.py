"""LPIPS on generated frames."""

import lpips
from einops import rearrange
from torch import Tensor, nn

from lipsync_lightning.errors import WrongWeights
from lipsync_lightning.models.released import FETCH_ALL, released_file
from lipsync_lightning.models.weights_io import frozen


def untrained_lpips() -> nn.Module:
    """Return LPIPS on a randomly initialised VGG-16: needs no download; its features still see edges and texture."""
    return lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)


def vgg_lpips(*, path: str) -> nn.Module:
    """Return LPIPS on torchvision's VGG-16, read from a local `vgg16-397923af.pth`.

    Raises: MissingWeights, WrongWeights.
    """
    released = released_file(path, get_with=FETCH_ALL)
    metric = untrained_lpips()
    # LPIPS calls torchvision's `features.5.weight` `slice2.5.weight`.
    original_name = {name: "features." + name.split(".", 1)[1] for name in metric.net.state_dict()}  # pyright: ignore[reportAttributeAccessIssue]
    missing = sorted(set(original_name.values()) - set(released))
    if missing:
        raise WrongWeights(
            f"{path} is not torchvision's VGG-16: it lacks {missing[:3]} and {max(0, len(missing) - 3)} more"
        )
    metric.net.load_state_dict(  # pyright: ignore[reportAttributeAccessIssue]
        {name: released[original] for name, original in original_name.items()}
    )
    return metric


class PerceptualLoss(nn.Module):
    """LPIPS between generated and real frames, frame by frame."""

    def __init__(self, *, metric: nn.Module) -> None:
        super().__init__()
        self.metric = frozen(metric)

    def forward(self, generated: Tensor, real: Tensor) -> Tensor:
        """Return the mean distance of two (B, T, 3, H, W) videos in [-1, 1]. Source: LPIPS (arXiv 1801.03924)."""
        generated_NCHW = rearrange(generated, "b t c h w -> (b t) c h w")
        real_NCHW = rearrange(real, "b t c h w -> (b t) c h w")
        return self.metric(generated_NCHW, real_NCHW).mean()
