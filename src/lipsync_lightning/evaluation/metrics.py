"""The one table of metrics: how each is called, which way is better, and how it is printed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lipsync_lightning.evaluation.page import Table

REAL = "real video"  # the untouched videos, as a system beside those under test


@dataclass(frozen=True)
class Metric:
    """A figure that is measured or logged."""

    name: str
    label: str
    better: Literal["higher", "lower"] | None = None
    meaning: str = "Logged under this name."
    digits: int = 3
    unit: str = ""
    panel: str = ""  # title of the drawing it shares with others; its own label if empty
    chance: float | None = None  # what guessing would reach

    @property
    def title(self) -> str:
        """The label, with an arrow where one way is better."""
        return self.label + {"higher": " ↑", "lower": " ↓", None: ""}[self.better]

    def shown(self, value: float | None) -> str:
        """Return a value with its digits and unit, and nothing for None."""
        text = "" if value is None else f"{value:.{self.digits}f}{self.unit}"
        return text.replace("-", "−").replace("inf", "∞")


_TOLD = "Own sound told from foreign"
_SIMILARITY = "Similarity of lips and sound"
_SAMPLES = "Sync score of samples"
WATCHED = ("Loss", _TOLD, _SAMPLES, "PSNR of samples")  # panels that a page shows first

METRICS = {
    each.name: each
    for each in (
        Metric("sync_confidence", "Sync confidence", "higher", "Of the best fit over a typical one, SyncNet's scale."),
        Metric("sync_distance", "Sync distance", "lower", "Of lips and sound where they fit best."),
        Metric("sync_offset", "Sound offset", None, "Frames by which the sound seems to come early.", 1, " frames"),
        Metric("mouth_correlation", "Mouth follows the speech", "higher", "Correlation of its opening with the truth."),
        Metric("mouth_correlation_share", "… as a share of real mouths", "higher", "Divided by that of real videos."),
        Metric("mouth_correlation_old", "Old mouth shows through", "lower", "Correlation with the one replaced."),
        Metric("mouth_correlation_chance", "… which it would by chance", None, "Correlation of old and new speech."),
        Metric("mouth_correlation_shuffled", "Mouth follows shuffled speech", None, "A control, which must be near 0."),
        Metric("sync_confidence_shuffled", "Sync confidence, shuffled speech", None, "A control, as above."),
        Metric("mouth_correlation_own", "Mouth follows own speech", "higher", "It shows in the untouched face, too."),
        Metric("sync_confidence_own", "Sync confidence, own speech", "higher", "With the video's own speech."),
        Metric("psnr", "PSNR of the mouth", "higher", "Of generated pixels, with the video's own speech.", 1, " dB"),
        Metric("ssim", "SSIM of the mouth", "higher", "The same by local structure; 1 is identical."),
        Metric("lpips", "LPIPS of the mouth", "lower", "The same by a network's features; 0 is identical."),
        Metric("temporal_error", "Temporal error", "lower", "Of changes from frame to frame, in grey levels.", 2),
        Metric("blockiness", "Blockiness", "lower", "Gradients between cells of latents over those inside.", 2),
        Metric("syncnet_accuracy", "SyncNet tells own from foreign sound", "higher", "How often; 0.5 is guessing."),
        Metric("syncnet_auc", "… without a threshold (AUC)", "higher", "0.5 is guessing, 1 is perfect order."),
        Metric("accuracy", "Accuracy", "higher", "Of SyncNet on held-out windows.", panel=_TOLD, chance=0.5),
        Metric("auc", "AUC", "higher", "The same without a threshold.", panel=_TOLD, chance=0.5),
        Metric("offset_accuracy", "Offset accuracy", "higher", "Best sound at most a frame away.", chance=3 / 11),
        Metric("offset_frames", "Best offset", None, "Median frames by which the best sound comes early.", 0),
        Metric("similarity_matching_mean", "Similarity to own sound", None, "Mean.", panel=_SIMILARITY),
        Metric("similarity_foreign_mean", "Similarity to foreign sound", None, "Mean.", panel=_SIMILARITY),
        Metric("threshold", "Threshold between the two", None, "Of similarity.", panel=_SIMILARITY),
        Metric("sync_generated", "Sync score, generated", "higher", "Probability that they fit.", panel=_SAMPLES),
        Metric("sync_real", "Sync score, real", None, "The same of the real lips.", panel=_SAMPLES),
        Metric("sync_control", "Sync score, other sound", None, "Should stay low.", panel=_SAMPLES),
        Metric("psnr_mouth", "PSNR of samples", "higher", "Of generated pixels of the sample clips.", 1, " dB"),
        Metric("gradient_norm", "Gradient norm", None, "Before clipping; growing for long announces divergence.", 2),
        Metric("skipped_steps", "Skipped steps", "lower", "Steps so far whose gradient was not finite.", 0),
        Metric("windows_per_second", "Windows per second", "higher", "By all devices together, without validation.", 1),
        Metric("data_wait_share", "Data-wait share", "lower", "Of the time. Above 0.1, add data workers."),
        Metric("peak_memory_gib", "Peak memory", "lower", "Of the GPU, or of the process.", 2, " GiB"),
        Metric("tflops_per_step", "TFLOPs per step", None, "Of one device, recomputed activations counted again."),
        Metric("mfu", "MFU", "higher", "Share of the device's peak speed that these operations reach."),
    )
}  # fmt: skip


def metric(name: str) -> Metric:
    """Return the metric of a name, logged ones with their prefix: `psnr`, `val/auc`, `train/loss_sync`, `lr-AdamW`."""
    part, _, short = name.rpartition("/")
    if short in METRICS:
        return METRICS[short]
    if short == "loss" or short.startswith("loss_"):
        term = short.removeprefix("loss").removeprefix("_")
        panel = f"Loss term {term}" if term else "Loss"
        meaning = "Before its weight." if term else "The weighted sum of all terms."
        return Metric(name, f"{panel}, {'training' if part == 'train' else 'held out'}", "lower", meaning, panel=panel)
    return Metric(name, name, panel="Learning rate" if name.startswith("lr-") else "")


def place(name: str) -> int:
    """Return where a metric stands among others: losses first, then as `METRICS` lists them, then unknown ones."""
    short = name.rpartition("/")[2]
    return -1 if short.startswith("loss") else list(METRICS).index(short) if short in METRICS else len(METRICS)


def comparison(figures: Mapping[str, Mapping[str, float]], bars: Mapping[str, float] | None = None) -> Table:
    """Return metrics as rows and systems as columns, the best of several systems marked.

    Args:
        figures: system -> name of a metric -> value; the real video is no competitor.
        bars: values that the last system must reach, at least (or at most, where lower is better).
    """
    bars = bars or {}
    names = dict.fromkeys([name for values in figures.values() for name in values] + list(bars))
    rows, marks = [], {}
    for row, name in enumerate(sorted(names, key=place)):
        found = metric(name)
        values = [each[name] for each in figures.values() if name in each]
        cells = [found.title, *(found.shown(each.get(name)) for each in figures.values()), *([""] if bars else [])]
        systems = enumerate(figures.items(), start=1)
        rivals = {column: each[name] for column, (system, each) in systems if name in each and system != REAL}
        if found.better and len(rivals) > 1:
            best = found.shown((max if found.better == "higher" else min)(rivals.values()))
            marks |= {(row, column): "best" for column in rivals if cells[column] == best}
        if name in bars:
            sign = -1 if found.better == "lower" else 1
            verdict = "reached" if values and sign * values[-1] >= sign * bars[name] else "missed"
            cells[-1] = f"{'≤' if sign < 0 else '≥'} {found.shown(bars[name])} {verdict}"
            marks[row, len(cells) - 1] = verdict
        rows.append(cells)
    return Table(columns=["metric", *figures, *(["asked"] if bars else [])], rows=rows, marks=marks)
