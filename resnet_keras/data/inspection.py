"""`inspect`: what data are before a network is trained on them, and whether it can be."""

import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from resnet_keras.data.duplicates import MOST_COMPARED, Group, duplicate_groups
from resnet_keras.data.facts import Content, ImageFacts, facts_of
from resnet_keras.data.listing import SPLITS, Listing, damage_in_words, named
from resnet_keras.data.sources import listing_of, open_source
from resnet_keras.data.splits import (
    VALIDATION_SHARE,
    ArraySplit,
    RecordSplit,
    Source,
    Split,
    inverse_frequency,
    places_below,
)
from resnet_keras.data.targets import are_several, counts_of, in_words
from resnet_keras.progress import counted

SIZES = (32, 64, 128, 224, 512, 1024)
"""Where the shorter sides of images are told apart."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found in data: each image that can be used with its label, its split and its facts, and the others."""

    data: str
    labels: tuple[str, ...]
    names: tuple[str, ...]
    """Of the images that can be used: their files, or split/number."""
    targets: np.ndarray
    """int64 [N], or bool [N, labels] where an image can have several"""
    splits: np.ndarray
    """The split of each image, as a training run would have it."""
    split_by: str
    """given: by folders, a column or the data set; name: by a hash of each file's name."""
    facts: tuple[ImageFacts, ...]
    damaged: dict[str, str]
    problems: tuple[str, ...]
    """What keeps the data from training, apart from damaged files."""
    contents: tuple[Content, ...]
    """The images themselves, to be shown; empty where they are streamed."""
    common_size: int | None = None
    """Shorter side of the images of a data set in which all have one size."""

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Images by class and split: int64 [classes, 3]."""
        each = [counts_of(self.targets[self.splits == split], len(self.labels)) for split in SPLITS]
        return np.stack(each, 1).astype("int64")

    @property
    def several(self) -> bool:
        """Whether an image can have several labels, or none."""
        return are_several(self.targets)

    def label_of(self, place: int) -> str:
        """The label of an image, or its labels, in words."""
        return in_words(self.targets[place], self.labels)

    @property
    def used_splits(self) -> list[str]:
        """The splits that have images."""
        return [split for split in SPLITS if (self.splits == split).any()]

    @functools.cached_property
    def groups(self) -> list[Group]:
        """Images that stand there more than once."""
        return duplicate_groups(
            [facts.file_hash for facts in self.facts],
            [facts.pixel_hash for facts in self.facts],
            np.stack([facts.thumb for facts in self.facts]) if self.facts else np.zeros((0, 16, 16, 3), "uint8"),
        )

    def crosses(self, group: Group) -> bool:
        """Whether a group has images of several splits."""
        return len({self.splits[i] for i in group.members}) > 1

    def disagrees(self, group: Group) -> bool:
        """Whether a group has several labels."""
        return len({self.label_of(i) for i in group.members}) > 1

    @functools.cached_property
    def leaked(self) -> dict[str, dict[str, int]]:
        """Validation images that are among the training images too, and test images that are among those of either: by
        split, how many in which way."""
        found = {split: {"file": 0, "pixels": 0, "near": 0} for split in SPLITS[1:]}
        for group in self.groups:
            for level, split in enumerate(SPLITS[1:], 1):
                known = [self.facts[i] for i in group.members if self.splits[i] in SPLITS[:level]]
                files, pixels = {one.file_hash for one in known}, {one.pixel_hash for one in known}
                for i in group.members if known else ():
                    if self.splits[i] == split:
                        fact = self.facts[i]
                        way = "file" if fact.file_hash in files else "pixels" if fact.pixel_hash in pixels else "near"
                        found[split][way] += 1
        return found

    @functools.cached_property
    def shorter_sides(self) -> np.ndarray:
        return np.array([min(facts.size) for facts in self.facts], "int64")

    @property
    def imbalance(self) -> float | None:
        """Training images of the largest class to those of the smallest that has any."""
        trained = self.counts[:, 0][self.counts[:, 0] > 0]
        return float(trained.max() / trained.min()) if len(trained) else None

    @property
    def balanced_weights(self) -> dict[str, float]:
        """What `class_weights balanced` multiplies the loss of each class by; of one label an image."""
        return dict(zip(self.labels, inverse_frequency(self.counts[:, 0]), strict=True))

    def number(self, fact: str) -> int:
        """Images of which a fact is true: grey, alpha or rotated."""
        return sum(getattr(facts, fact) for facts in self.facts)

    @property
    def refusal(self) -> str | None:
        """Why training would refuse the data, in one line; None where it would not."""
        refused = [damage_in_words(self.damaged)] if self.damaged else []
        return named([*refused, *self.problems]) or None

    def sizes_in_words(self) -> list[tuple[str, int]]:
        """Images by shorter side, from one of `SIZES` to the next."""
        names = [
            f"below {SIZES[0]}",
            *(f"{low} to {high - 1}" for low, high in itertools.pairwise(SIZES)),
            f"{SIZES[-1]} and more",
        ]
        where = np.bincount(np.searchsorted(SIZES, self.shorter_sides, "right"), minlength=len(names))
        return [(name, int(count)) for name, count in zip(names, where, strict=True) if count]

    def to_dict(self, image_size: int) -> dict[str, Any]:
        """The inspection as JSON has it."""
        sizes = np.array([facts.size for facts in self.facts]).reshape(-1, 2)
        order = np.argsort(sizes.prod(1), kind="stable")
        return {
            "data": self.data,
            "usable": self.refusal is None,
            "problems": list(self.problems),
            "damaged": [{"file": file, "why": why} for file, why in self.damaged.items()],
            "images": len(self.facts),
            "splits": {split: int((self.splits == split).sum()) for split in SPLITS},
            "split_by": self.split_by,
            "several_labels": self.several,
            "classes": [
                {
                    "label": label,
                    **dict(zip(SPLITS, row, strict=True)),
                    **({} if self.several else {"balanced_weight": self.balanced_weights[label]}),
                }
                for label, row in zip(self.labels, self.counts.tolist(), strict=True)
            ],
            "imbalance": self.imbalance,
            "kinds": dict(Counter(facts.kind for facts in self.facts)),
            "sizes": {
                name: sizes[order[int(place * (len(order) - 1))]].tolist()
                for name, place in (("smallest", 0), ("median", 0.5), ("largest", 1))
                if len(order)
            },
            "small": {"image_size": image_size, "images": int((self.shorter_sides < image_size).sum())},
            **{name: self.number(name) for name in ("grey", "alpha", "rotated")},
            "duplicates": [
                {
                    "kind": group.kind,
                    "across_splits": self.crosses(group),
                    "different_labels": self.disagrees(group),
                    "images": [
                        {"file": self.names[i], "label": self.label_of(i), "split": str(self.splits[i])}
                        for i in group.members
                    ],
                }
                for group in self.groups
            ],
            "near_duplicates_compared": len(self.facts) <= MOST_COMPARED,
            "leaked": self.leaked,
        }


def inspect(data: str, data_dir: str | None = None) -> Inspection:
    """Read every image of a folder, a table or a data set, and say what there is.

    Args:
        data: as `open_source` takes it.
        data_dir: where TensorFlow Datasets keeps prepared data.

    Raises:
        UsageError: there is nothing that could be listed.
    """
    listing = listing_of(data)
    if listing is not None:
        return _inspect_files(data, listing)
    return _inspect_source(data, open_source(data, data_dir))


def _inspect_files(data: str, listing: Listing) -> Inspection:
    found = list(counted(facts_of(listing.paths), "reading images", len(listing)))
    damaged = {path: fact for path, fact in zip(listing.paths, found, strict=True) if isinstance(fact, str)}
    facts = tuple(fact for fact in found if isinstance(fact, ImageFacts))
    good = listing.without(damaged)
    return Inspection(
        data,
        good.labels,
        good.paths,
        good.targets,
        _as_trained(good),
        "name" if listing.splits is None else "given",
        facts,
        damaged,
        tuple(good.unusable()),
        good.paths,
    )


def _as_trained(listing: Listing) -> np.ndarray:
    """The split of each file, with the validation images that a run holds out by itself."""
    splits = listing.split_of_each().copy()
    if len(splits) and not (splits == "validation").any():
        train = np.flatnonzero(splits == "train")
        part = listing.part(train)
        splits[train[places_below(part.paths, part.targets, "validation", VALIDATION_SHARE)]] = "validation"
    return splits


def _inspect_source(data: str, source: Source) -> Inspection:
    names: list[str] = []
    targets: list[int] = []
    splits: list[str] = []
    facts: list[ImageFacts] = []
    contents: list[Content] = []
    damaged: dict[str, str] = {}
    for split, part in (("train", source.train), ("validation", source.validation), ("test", source.test)):
        own: list[int] = []

        def read(part: Split | None = part, own: list[int] = own) -> Iterator[Content]:
            for content, target in _contents_of(part):
                own.append(target)
                yield content

        count = 0 if part is None else len(part)
        for i, fact in enumerate(counted(facts_of(read()), f"reading {split} images", count)):
            if isinstance(fact, str):
                damaged[f"{split}/{i}"] = fact
                continue
            names.append(f"{split}/{i}")
            targets.append(own[i])
            splits.append(split)
            facts.append(fact)
        if isinstance(part, ArraySplit):
            contents += list(part.images)
    return Inspection(
        data,
        source.labels,
        tuple(names),
        np.array(targets, "int64"),
        np.array(splits, "<U10"),
        "given",
        tuple(facts),
        damaged,
        (),
        tuple(contents) if len(contents) == len(names) else (),
        source.image_size and min(source.image_size),
    )


def _contents_of(split: Split | None) -> Iterator[tuple[Content, int]]:
    """The images of a split as they are stored, each with its target."""
    if isinstance(split, ArraySplit):
        yield from zip(split.images, split.targets.tolist(), strict=True)
    elif isinstance(split, RecordSplit):
        examples = tf.data.TFRecordDataset(list(split.files)).map(split.parse, tf.data.AUTOTUNE)
        for image, target in examples.as_numpy_iterator():
            yield image, int(target)
