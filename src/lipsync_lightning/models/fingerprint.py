"""By what a stored result is known to be a network's: its weights, or its weights and settings."""

import json
from hashlib import sha256

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn


def fingerprint(network: nn.Module) -> str:
    """Return a hash of a network's weights: what was stored with these belongs to it and to no other."""
    digest = sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint_with_settings(network: ModelMixin) -> str:
    """Return a hash of a network's class, settings and weights, for networks that do something else by other settings."""
    settings = {
        key: value for key, value in dict(network.config).items() if not key.startswith("_")
    }  # others tell of a file, or a version
    told = json.dumps([type(network).__name__, settings, fingerprint(network)], sort_keys=True)
    return sha256(told.encode()).hexdigest()
