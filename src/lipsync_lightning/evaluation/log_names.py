"""What the names in a training log mean, and which of them are looked at together."""

from collections.abc import Collection
from dataclasses import dataclass

_LOSS = "loss"
_LEARNING_RATE = "lr-"  # Lightning's monitor names them after their optimizer


@dataclass(frozen=True, kw_only=True)
class Group:
    """Logged values that share a panel."""

    title: str
    meaning: str
    names: tuple[str, ...]
    chance: float | None = None  # what guessing would reach
    is_headline: bool = False  # its newest value stands at the top of the page

    @property
    def is_loss(self) -> bool:
        return self.names[0].startswith(f"train/{_LOSS}")


GROUPS = (
    Group(
        title="Accuracy and AUC",
        meaning="How often SyncNet tells a held-out window's own sound from its neighbour's, at the calibrated threshold and without one.",
        names=("val/accuracy", "val/auc"),
        chance=0.5,
        is_headline=True,
    ),
    Group(
        title="Offset accuracy",
        meaning="How often the best fitting sound within 5 frames to either side lies at most 1 frame away.",
        names=("val/offset_accuracy",),
        chance=3 / 11,
        is_headline=True,
    ),
    Group(
        title="Best offset (frames)",
        meaning="By how many frames the sound fits best when it comes early, the median; anything but 0 points at the data.",
        names=("val/offset_frames",),
    ),
    Group(
        title="Similarity",
        meaning="Of held-out lips to their own and to foreign sound: means, spread as a band, and the threshold between. They should part.",
        names=(
            *("val/similarity_matching_mean", "val/similarity_foreign_mean", "val/threshold"),
            *("val/similarity_matching_std", "val/similarity_foreign_std"),
        ),
    ),
    Group(
        title="Sync score of samples",
        meaning="How probable SyncNet holds it that lips and sound belong together: real lips, generated ones, and generated ones with "
        "another clip's sound. Generated should climb to real, the control should stay low.",
        names=("val/sync_generated", "val/sync_real", "val/sync_control"),
        is_headline=True,
    ),
    Group(
        title="PSNR of the mouth (dB)",
        meaning="How close generated pixels of the sample clips are to the real ones; higher is closer.",
        names=("val/psnr_mouth",),
        is_headline=True,
    ),
    Group(
        title="Gradient norm",
        meaning="Before clipping. Spikes are clipped; a norm that grows for long announces divergence.",
        names=("train/gradient_norm",),
    ),
    Group(
        title="Skipped steps",
        meaning="Steps left out so far because their gradient was not finite.",
        names=("train/skipped_steps",),
        is_headline=True,
    ),
    Group(
        title="Windows per second",
        meaning="Trained on by all devices together, waiting for data included, validation not.",
        names=("vitals/windows_per_second",),
        is_headline=True,
    ),
    Group(
        title="Data-wait share",
        meaning="Part of the time in which there was nothing to compute because the next batch was not there. Above 0.1, add data workers.",
        names=("vitals/data_wait_share",),
        is_headline=True,
    ),
    Group(
        title="Peak memory (GiB)",
        meaning="The most ever used: allocated on the GPU, or without one resident in the process.",
        names=("vitals/peak_memory_gib",),
        is_headline=True,
    ),
    Group(
        title="TFLOPs per step",
        meaning="10¹² multiplications and additions of one device in one optimizer step, recomputed activations counted again.",
        names=("vitals/tflops_per_step",),
    ),
    Group(
        title="MFU",
        meaning="Share of the device's peak speed that these operations reach.",
        names=("vitals/mfu",),
        is_headline=True,
    ),
)


def groups_of(names: Collection[str]) -> list[Group]:
    """Return the groups that hold every one of these names once: losses first, then known ones, then each other name by itself."""
    losses = [_loss_group(kind) for kind in sorted({_loss_of(name) for name in names if _loss_of(name)})]
    known = [*losses, *GROUPS, *_rate_group(names)]
    found = {name for group in known for name in group.names}
    others = [
        Group(title=name, meaning="Logged under this name.", names=(name,))
        for name in sorted(names)
        if name not in found
    ]
    return [group for group in (*known, *others) if any(name in names for name in group.names)]


def _rate_group(names: Collection[str]) -> list[Group]:
    rates = tuple(sorted(name for name in names if name.startswith(_LEARNING_RATE)))
    return [Group(title="Learning rate", meaning="Of each group of parameters.", names=rates)] if rates else []


def _loss_of(name: str) -> str:
    """`loss` or `loss_<term>`, or nothing where a name is no loss."""
    part, _, kind = name.partition("/")
    return kind if part in ("train", "val") and (kind == _LOSS or kind.startswith(f"{_LOSS}_")) else ""


def _loss_group(kind: str) -> Group:
    names = (f"train/{kind}", f"val/{kind}")
    if kind == _LOSS:
        return Group(
            title="Loss",
            meaning="The weighted sum of all terms, on training batches and on held-out clips.",
            names=names,
        )
    term = kind.removeprefix(f"{_LOSS}_")
    return Group(
        title=f"Loss term: {term}", meaning="Before its weight, on training batches and on held-out clips.", names=names
    )
