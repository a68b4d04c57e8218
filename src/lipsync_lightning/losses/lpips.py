"""LPIPS networks, by which `losses.trepa.PerceptualLoss` compares frames."""

import warnings

import lpips
from torch import nn

from lipsync_lightning.errors import WrongWeights
from lipsync_lightning.models.released import FETCH_ALL, released_file


def untrained_lpips() -> nn.Module:
    """Return LPIPS on a randomly initialised VGG-16: needs no download; its features still see edges and texture."""
    with warnings.catch_warnings(action="ignore"):  # lpips calls torchvision as it was called years ago
        return lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)


def vgg_lpips(*, path: str) -> nn.Module:
    """Return LPIPS on torchvision's VGG-16, from `vgg16-397923af.pth`. Raises: MissingWeights, WrongWeights."""
    released = released_file(path, get_with=FETCH_ALL)
    metric: lpips.LPIPS = untrained_lpips()  # pyright: ignore[reportAssignmentType]
    # LPIPS calls torchvision's `features.5.weight` `slice2.5.weight`.
    names = {name: "features." + name.split(".", 1)[1] for name in metric.net.state_dict()}
    missing = sorted(set(names.values()) - set(released))
    if missing:
        raise WrongWeights(f"{path} is not torchvision's VGG-16: it lacks {len(missing)} weights, such as {missing[0]}")
    metric.net.load_state_dict({name: released[original] for name, original in names.items()})
    return metric
