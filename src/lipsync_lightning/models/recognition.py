"""Whose weights these are, told from their names: so that an error can name the cause."""

from collections.abc import Iterable, Mapping

from torch import Tensor

# What a name begins with and whose it then is; the first that matches counts.
_SIGNATURES = (
    ("model.diffusion_model.", "Stable Diffusion in one file"),
    ("face_encoder_blocks.", "Wav2Lip's generator"),
    ("face_encoder.", "Wav2Lip's SyncNet"),
    ("visual_encoder.0.conv_block.", "a SyncNet of Wav2Lip's shape"),
    ("visual_encoder.down_blocks.", "StableSyncNet"),
    ("netcnnaud.", "the evaluation SyncNet"),
    ("res.layer1.", "HyperIQA"),
    ("patch_embed.proj.", "VideoMAE"),
    ("encoder.blocks.", "OpenAI's Whisper"),
    ("encoder.down_blocks.", "Stable Diffusion's VAE"),
    ("unet.", "a training run's module with the U-Net in it"),
    ("down_blocks.0.resnets.", "a U-Net of Stable Diffusion's shape"),
)
_KINDS = {  # what `convert` calls them
    "StableSyncNet": "syncnet",
    "the evaluation SyncNet": "judge_syncnet",
    "HyperIQA": "hyperiqa",
    "VideoMAE": "videomae",
    "OpenAI's Whisper": "whisper",
    "a U-Net of Stable Diffusion's shape": "latentsync",
}
_STAGES = {
    (False, False): "stage 1, without temporal modules",
    (True, True): "stage 2, with temporal modules everywhere",
    (False, True): "stage 2 efficient, with temporal modules on the way up",
}
_FIRST_CONVOLUTION = "conv_in.weight"


def owner(keys: Iterable[str]) -> str | None:
    """Return whose weights carry these names, or None where no signature fits."""
    names = list(keys)
    return next((whose for start, whose in _SIGNATURES if any(name.startswith(start) for name in names)), None)


def stage(keys: Iterable[str]) -> tuple[bool, bool]:
    """Return whether a U-Net's names speak of temporal modules (on the way down, on the way up)."""
    with_motion = [key for key in keys if ".motion_modules." in key]
    return any(key.startswith("down_blocks.") for key in with_motion), any(
        key.startswith("up_blocks.") for key in with_motion
    )


def cause_of_mismatch(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return the likely reason, as a clause, why `given` is not what was expected."""
    if not given:
        return "they are empty"
    wanted, found = owner(expected), owner(given)
    if found != wanted:
        kind = f" (kind={_KINDS[found]})" if found in _KINDS else ""
        return f"they look like {found or 'nothing known here'}{kind}, wanted is {wanted}"
    if _FIRST_CONVOLUTION in expected and _FIRST_CONVOLUTION in given:
        ours, theirs = expected[_FIRST_CONVOLUTION].shape[1], given[_FIRST_CONVOLUTION].shape[1]
        if ours != theirs:
            return (
                f"they read {theirs} input channels instead of {ours}, so they were not trained for LatentSync's task"
            )
    if stage(given) != stage(expected):
        return f"they are of {_STAGES.get(stage(given), 'an unknown stage')}, the configuration is of {_STAGES[stage(expected)]}"
    return "names or shapes differ"
