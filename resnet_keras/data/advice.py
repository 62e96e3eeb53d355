"""What to do about the data that were inspected, in words."""

from typing import Literal

from resnet_keras.data.duplicates import MOST_COMPARED
from resnet_keras.data.inspection import Inspection

Level = Literal["refused", "warning", "note"]
"""refused: training refuses the data; warning: its figures or the network suffer; note: to be known."""
UNEVEN = 3.0
"""Images of the largest class to those of the smallest from which on it is a warning."""
FEW = 20
"""Training images of a class below which it is a warning."""
LONG = 2.0
"""Longer side to shorter from which on a centre crop loses half of the image."""


def advice_on(found: Inspection, image_size: int) -> list[tuple[Level, str]]:
    """What is to be done before a network is trained on the data at an image size, the worst first."""
    advice: list[tuple[Level, str]] = []
    if found.damaged:
        files = _count(len(found.damaged), "damaged file")
        advice.append(("refused", f"{files}: mend or remove them, or train with --skip-damaged."))
    for problem in found.problems:
        advice.append(("refused", f"{problem}."))
    for text in [*_leaks(found), *_labels(found), *_classes(found)]:
        advice.append(("warning", text))
    for text in _notes(found, image_size):
        advice.append(("note", text))
    return advice


def _count(number: int, thing: str, many: str = "") -> str:
    return f"{number:,} {thing if number == 1 else many or thing + 's'}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _leaks(found: Inspection) -> list[str]:
    texts = []
    ways = {"file": "the same file", "pixels": "the same pixels in another file", "near": "nearly the same"}
    for split, others in (("validation", "training"), ("test", "training or validation")):
        if total := sum(found.leaked[split].values()):
            words = ", ".join(f"{number:,} {ways[way]}" for way, number in found.leaked[split].items() if number)
            whole = _count(int((found.splits == split).sum()), f"{split} image")
            texts.append(
                f"Leakage: {total:,} of {whole} {'is' if total == 1 else 'are'} among the {others} images too "
                f"({words}). The {split} accuracy will be too high; remove the copies."
            )
    return texts


def _labels(found: Inspection) -> list[str]:
    wrong = [group for group in found.groups if found.disagrees(group)]
    if not wrong:
        return []
    first = wrong[0]
    named = " and ".join(f"{found.names[i]} ({found.label_of(i)})" for i in first.members[:3])
    groups = "1 image has" if len(wrong) == 1 else f"{len(wrong):,} images have"
    return [f"{groups} copies of another class, such as {named}. One of the labels is wrong; remove or move it."]


def _classes(found: Inspection) -> list[str]:
    texts, train = [], found.counts[:, 0]
    ratio = found.imbalance
    if ratio is not None and ratio >= UNEVEN:
        small, large = (found.labels[i] for i in (_smallest(found), int(train.argmax())))
        what, weighed = "labels", f"Add images of {small}."
        if not found.several:
            weights, what = found.balanced_weights, "classes"
            weighed = (
                f"--class-weights balanced weighs the loss of {small} by {weights[small]:.2f} and that of {large} by "
                f"{weights[large]:.2f}; more images of {small} are better."
            )
        texts.append(
            f"The {what} are uneven: {large} has {train.max():,} training images, {ratio:.1f} times as many as "
            f"{small}. {weighed}"
        )
    few = [label for label, count in zip(found.labels, train, strict=True) if 0 < count < FEW]
    if few:
        words = ["label"] if found.several else ["class", "classes"]
        texts.append(
            f"{_count(len(few), *words)} with fewer than {FEW} training images: {_some(few)}. Add images, "
            "and start from trained weights (--weights)."
        )
    for i, split in ((2, "test"), (1, "validation")):
        if split in found.used_splits and (empty := [found.labels[j] for j in (found.counts[:, i] == 0).nonzero()[0]]):
            texts.append(f"No {split} image of {_some(empty)}: the {split} accuracy says nothing of it.")
    return texts


def _smallest(found: Inspection) -> int:
    train = found.counts[:, 0]
    return int(min((count, i) for i, count in enumerate(train) if count)[1])


def _several(found: Inspection) -> str:
    each = found.targets.sum(1)
    none = int((each == 0).sum())
    without = f", and {_count(none, 'image')} none" if none else ""
    return (
        f"Several labels an image: {each.mean():.1f} on average, at most {each.max()}{without}. Each label is a "
        "question of its own, so an image that lacks one counts against it: name all that are there."
    )


def _notes(found: Inspection, image_size: int) -> list[str]:
    texts, whole = [], len(found.facts)
    inside = [group for group in found.groups if not found.crosses(group) and not found.disagrees(group)]
    if inside:
        extra = sum(len(group.members) - 1 for group in inside)
        texts.append(
            f"{_count(extra, 'copy', 'copies')} within one split and class: they count more than once; remove what is "
            "not meant to."
        )
    if found.several:
        texts.append(_several(found))
    if whole > MOST_COMPARED:
        texts.append(
            f"More than {MOST_COMPARED:,} images: only equal files and equal pixels were looked for, not "
            "near-duplicates."
        )
    if small := int((found.shorter_sides < image_size).sum()):
        median = int(sorted(found.shorter_sides)[whole // 2])
        texts.append(
            f"{small:,} of {_count(whole, 'image')} {'has' if small == 1 else 'have'} a shorter side below the "
            f"{image_size} pixels of the network's input and would be enlarged; the median is {median}. A smaller "
            "--image-size trains faster."
        )
    if long := sum(max(facts.size) >= LONG * min(facts.size) for facts in found.facts):
        texts.append(
            f"{_count(long, 'image')} at least twice as long as wide: the centre crop that is evaluated leaves "
            "half of it out. Crop to what matters."
        )
    if alpha := found.number("alpha"):
        texts.append(
            f"{_count(alpha, 'image')} with transparency: it is dropped, and what is behind it shows. Put them "
            "on the background that they are to be seen on."
        )
    grey = found.number("grey")
    if grey and grey < whole:
        texts.append(
            f"{_count(grey, 'image')} of {whole:,} in grey: they are read as colour images of equal channels. "
            "Where one class is grey and another is not, that alone tells them apart."
        )
    if rotated := found.number("rotated"):
        texts.append(
            f"{_count(rotated, 'image')} turned by Exif orientation: they are set upright in training, "
            "evaluation and the servable."
        )
    return texts
