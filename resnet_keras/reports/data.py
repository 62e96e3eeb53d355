"""The page of an inspection of data: what to do, the classes with samples, sizes, duplicates, damaged files."""

import base64
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from resnet_keras.data.advice import advice_on
from resnet_keras.data.duplicates import Group
from resnet_keras.data.facts import Content
from resnet_keras.data.images import decoder
from resnet_keras.data.inspection import Inspection
from resnet_keras.data.listing import SPLITS
from resnet_keras.data.targets import places_of
from resnet_keras.files import writing_to
from resnet_keras.reports.html import write_page

SAMPLES = 8
"""Images of a class, where there are few classes."""
MOST_SAMPLES = 240
"""Images on the page."""
MOST_GROUPS = 30
"""Groups of duplicates on the page."""
SIDE = 144
"""Of a sample's longer side, in pixels; it is shown at half of it."""
WAYS = {"file": "same file", "pixels": "same pixels", "near": "nearly the same"}


@dataclass(frozen=True)
class Sample:
    """A small image, and what it is in words."""

    source: str
    words: str
    tiny: bool
    """It is enlarged to be seen."""


@dataclass(frozen=True)
class Bar:
    """A row of a table with a bar."""

    name: str
    count: int
    part: float
    """Of the longest bar, 0 to 1."""


def write_data_page(found: Inspection, image_size: int, path: Path) -> None:
    """Write the page of an inspection, whole or not at all.

    Args:
        found: the inspection.
        image_size: of the network's input, in pixels, for the advice.
        path: the file.
    """
    chosen = _chosen(found)
    groups = sorted(found.groups, key=lambda group: (not found.crosses(group), not found.disagrees(group)))
    with writing_to(path.parent):
        write_page(
            path,
            "data.html",
            title=f"Data: {found.data}",
            summary=summary_of(found),
            refusal=found.refusal is not None,
            advice=advice_on(found, image_size),
            kind="Label" if found.several else "Class",
            splits=found.used_splits,
            classes=_class_rows(found),
            samples=[
                (found.labels[i], [_sample(found, place) for place in places])
                for i, places in enumerate(chosen)
                if places
            ],
            unsampled=sum(1 for i, places in enumerate(chosen) if not places and found.counts[i].any()),
            sizes=_bars(found.sizes_in_words()),
            kinds=_bars(Counter(facts.kind for facts in found.facts).most_common()),
            groups=[_group_row(found, group) for group in groups[:MOST_GROUPS]],
            more_groups=max(len(groups) - MOST_GROUPS, 0),
            damaged=[(_short(found, file), why) for file, why in found.damaged.items()],
        )


def summary_of(found: Inspection) -> str:
    """How many images of how many classes, and in which splits."""
    counts = ", ".join(
        f"{(found.splits == split).sum():,} to {verb}"
        for split, verb in zip(SPLITS, ("train", "validate", "test"), strict=True)
        if split in found.used_splits
    )
    by = " (split by a hash of each name)" if found.split_by == "name" else ""
    images = f"{len(found.facts):,} image{'' if len(found.facts) == 1 else 's'}"
    labels = f"with {len(found.labels):,} labels, several an image"
    labels = labels if found.several else f"in {len(found.labels):,} classes"
    return f"{images} {labels}{': ' if counts else ''}{counts}{by}."


def _class_rows(found: Inspection) -> list[tuple[str, list[Bar]]]:
    columns = [SPLITS.index(split) for split in found.used_splits]
    most = max(int(found.counts.max(initial=0)), 1)
    rows = zip(found.labels, found.counts.tolist(), strict=True)
    return [(label, [Bar(SPLITS[i], row[i], row[i] / most) for i in columns]) for label, row in rows]


def _bars(rows: list[tuple[str, int]]) -> list[Bar]:
    most = max((count for _, count in rows), default=1)
    return [Bar(name, count, count / most) for name, count in rows]


def _chosen(found: Inspection) -> list[list[int]]:
    """The places of the samples of each class, evenly over its training images, or those of any split."""
    each = min(SAMPLES, MOST_SAMPLES // max(len(found.labels), 1))
    chosen: list[list[int]] = []
    for target in range(len(found.labels)):
        own = places_of(found.targets, target)
        trained = own[found.splits[own] == "train"]
        own = trained if len(trained) else own
        count = min(each or 1, len(own)) if found.contents and sum(map(len, chosen)) < MOST_SAMPLES else 0
        chosen.append([int(own[i * len(own) // count]) for i in range(count)])
    return chosen


def _sample(found: Inspection, place: int) -> Sample:
    image = _shrunk(found.contents[place])
    # To the pixel where it is enlarged; else a page of photographs would be three times as large.
    tiny = max(image.shape) < SIDE // 2
    encoded, kind = (tf.io.encode_png(image), "png") if tiny else (tf.io.encode_jpeg(image, quality=85), "jpeg")
    source = f"data:image/{kind};base64,{base64.b64encode(encoded.numpy()).decode()}"
    height, width = found.facts[place].size
    words = f"{_short(found, found.names[place])}, {found.splits[place]}, {width} by {height} pixels"
    if found.several:
        words = f"{found.label_of(place)}: {words}"
    return Sample(source, words, tiny)


def _shrunk(content: Content) -> np.ndarray:
    """An image as a network sees it, upright and in RGB or grey, its longer side at most `SIDE`."""
    if isinstance(content, np.ndarray):
        image = content
    else:
        image = decoder(3)(tf.io.read_file(content) if isinstance(content, str) else tf.constant(content)).numpy()
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    if scale < 1:
        size = (max(round(height * scale), 1), max(round(width * scale), 1))
        image = tf.clip_by_value(tf.image.resize(image, size, antialias=True), 0, 255).numpy().astype("uint8")
    return image


def _group_row(found: Inspection, group: Group) -> dict[str, object]:
    return {
        "way": WAYS[group.kind],
        "sample": _sample(found, group.members[0]) if found.contents else None,
        "crosses": found.crosses(group),
        "disagrees": found.disagrees(group),
        "members": [
            (_short(found, found.names[i]), found.label_of(i), str(found.splits[i])) for i in group.members[:12]
        ],
        "more": max(len(group.members) - 12, 0),
    }


def _short(found: Inspection, name: str) -> str:
    """A file's name without the folder that all have in common."""
    root = Path(found.data).expanduser()
    path, root = Path(name), root if root.is_dir() else root.parent
    return str(path.relative_to(root)) if path.is_relative_to(root) else name
