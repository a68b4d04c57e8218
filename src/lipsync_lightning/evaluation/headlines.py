"""What the figures of an evaluation mean, in words for somebody who was not there."""

from collections.abc import Mapping
from typing import NamedTuple


class Wording(NamedTuple):
    """How one figure is shown."""

    label: str
    meaning: str
    digits: int = 3
    unit: str = ""


class Headline(NamedTuple):
    """One figure of the page."""

    label: str
    value: str
    meaning: str
    bar: str  # the least it was asked to be, empty where nothing was asked
    verdict: str  # "pass", "fail" or empty


WORDINGS = {
    "syncnet_accuracy": Wording(
        "SyncNet accuracy",
        "How often SyncNet tells a held-out clip's own sound from somebody else's; 0.5 is guessing, 1 is never wrong.",
    ),
    "syncnet_auc": Wording(
        "SyncNet AUC", "The same judgement without choosing a threshold; 0.5 is guessing, 1 is perfect order."
    ),
    "mouth_correlation_cross": Wording(
        "Mouth follows new speech",
        "How closely the generated mouth opens and closes with speech that is not the video's own; 1 is exactly, 0 is not at all.",
    ),
    "mouth_correlation_reconstruction": Wording(
        "Mouth follows own speech",
        "The same with the video's own speech, which the model could in part read off the untouched face.",
    ),
    "mouth_correlation_real": Wording(
        "Real mouths follow their speech",
        "The same measured on the untouched videos: the ceiling for every other correlation here.",
    ),
    "mouth_correlation_cross_share": Wording(
        "Share of the ceiling",
        "The new-speech figure as a share of the real mouths' one: how near generated mouths come to real ones.",
    ),
    "mouth_correlation_old": Wording(
        "Old mouth shows through",
        "How much the generated mouth still moves like the replaced one; near 0 means that the sound is obeyed.",
    ),
    "mouth_correlation_old_stage1": Wording(
        "Old mouth shows through, stage 1",
        "The same for the system after stage 1, whose window is its own reference as published.",
    ),
    "mouth_correlation_old_stage2_own_frames": Wording(
        "Old mouth shows through, stage 2 with own frames",
        "The same after stage 2, but with the window as its own reference: beside the one above it shows what training changed, "
        "beside the first what the choice of reference changed.",
    ),
    "mouth_correlation_chance": Wording(
        "Old and new speech by chance",
        "How far the new speech's true track happens to follow the old one's: what even a perfect mouth would show of the old.",
    ),
    "mouth_correlation_shuffled": Wording(
        "Mouth against shuffled speech",
        "The correlation when the sound's pieces are out of order; near 0 means that no score is had for free.",
    ),
    "psnr_mouth_reconstruction": Wording(
        "PSNR of the mouth",
        "How close the generated pixels are to the real ones with the video's own speech; higher is closer.",
        1,
        " dB",
    ),
    "ssim_mouth_reconstruction": Wording(
        "SSIM of the mouth", "The same judged by local structure instead of single pixels; 1 is identical."
    ),
    "lpips_mouth_reconstruction": Wording(
        "LPIPS of the mouth",
        "The same judged by the features of a network, untrained ones in the demo; 0 is identical, lower is closer.",
    ),
    "sync_confidence_cross": Wording(
        "Sync confidence",
        "How much better the best alignment of lips and sound fits than a typical wrong one; higher is surer.",
    ),
    "av_offset": Wording(
        "Sound offset", "By how many frames the sound seems to run ahead of the lips; 0 is in sync.", 1, " frames"
    ),
}
_UNDESCRIBED = "Recorded by the evaluation under this name."


def number(value: object, digits: int = 3, unit: str = "") -> str:
    """Return a table cell: numbers rounded, a dash for nothing, other values as they are."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) == float("inf"):
        return f"{value}{unit}".replace("inf", "∞").replace("-", "−")
    return f"{value:.{digits}f}{unit}".replace("-", "−")


def headlines(metrics: Mapping[str, object], bars: Mapping[str, float]) -> list[Headline]:
    """Return the figures at the top level of an evaluation, described ones first, with what was asked of them."""
    figures = {
        key: value for key, value in metrics.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    missing = {key: None for key in bars if key not in figures}
    ordered = [key for key in WORDINGS if key in figures or key in missing]
    ordered += [key for key in (*figures, *missing) if key not in WORDINGS]
    return [_headline(key, figures.get(key), bars.get(key)) for key in ordered]


def _wording(key: str) -> Wording:
    """The words for a figure; `<figure>_<system>` is the figure of another system than the one under test."""
    if key in WORDINGS:
        return WORDINGS[key]
    figure = max((known for known in WORDINGS if key.startswith(f"{known}_")), key=len, default=None)
    if figure is None:
        return Wording(key.replace("_", " "), _UNDESCRIBED)
    system = key.removeprefix(f"{figure}_").replace("_", " ")
    return WORDINGS[figure]._replace(label=f"{WORDINGS[figure].label}, {system}")


def _headline(key: str, value: float | None, bar: float | None) -> Headline:
    wording = _wording(key)
    shown = number(value, wording.digits, wording.unit)
    if bar is None:
        return Headline(wording.label, shown, wording.meaning, "", "")
    passed = value is not None and value >= bar
    return Headline(
        wording.label,
        shown,
        wording.meaning,
        f"at least {number(float(bar), wording.digits, wording.unit)}",
        "pass" if passed else "fail",
    )
