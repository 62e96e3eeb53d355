"""Image files with their labels and splits, as a folder or a table names them: what they are before they are read."""

import concurrent.futures
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tensorflow as tf

from resnet_keras.data.images import decoder, undecodable
from resnet_keras.data.splits import FileSplit, Source, places_below
from resnet_keras.data.targets import are_several, counts_of
from resnet_keras.errors import UsageError
from resnet_keras.progress import counted
from resnet_keras.startup import standard_error_held

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
TEST_SHARE = 0.2
"""Of each class, where nothing says which images are for testing."""
MOST_NAMED = 10
"""Files and rows in one message."""


@dataclass(frozen=True, eq=False)
class Listing:
    """Image files of a folder or a table. Nothing has been read of them."""

    name: str
    labels: tuple[str, ...]
    paths: tuple[str, ...]
    targets: np.ndarray
    """int64 [N], indices into the labels; or bool [N, labels], where an image can have several."""
    splits: np.ndarray | None
    """The split of each file, a word of `SPLITS`; None where files are split by a hash of their names."""
    problems: tuple[str, ...] = ()
    """What keeps it from being used, each in words that say how to mend it."""
    skipped: tuple[str, ...] = ()
    """Damaged files that were left out, each with what is wrong with it."""

    def __len__(self) -> int:
        return len(self.paths)

    def part(self, places: np.ndarray) -> "Listing":
        """The listing of some of the files."""
        return dataclasses.replace(
            self,
            paths=tuple(self.paths[i] for i in places),
            targets=self.targets[places],
            splits=None if self.splits is None else self.splits[places],
        )

    def without(self, damaged: dict[str, str]) -> "Listing":
        """The listing without damaged files, which it names."""
        good = np.flatnonzero([path not in damaged for path in self.paths])
        return dataclasses.replace(self.part(good), skipped=tuple(f"{path}: {why}" for path, why in damaged.items()))

    def split_of_each(self) -> np.ndarray:
        """The split of each file, a word of `SPLITS`: the one that it is given, or by its name."""
        if self.splits is not None:
            return self.splits
        splits = np.full(len(self), "train", "<U10")
        splits[places_below(self.paths, self.targets, "test", TEST_SHARE)] = "test"
        return splits

    def unusable(self) -> list[str]:
        """What keeps these files from training: the problems of the listing, and classes with too few images."""
        problems, what = list(self.problems), "label" if are_several(self.targets) else "class"
        counts = counts_of(self.targets, len(self.labels))
        if self.splits is None:
            problems += [
                f"{what} {label} has {'one' if count else 'no'} image; a {what} needs two, one of them to test with"
                for label, count in zip(self.labels, counts, strict=True)
                if count < 2
            ]
            return problems
        trained = counts_of(self.targets[self.splits == "train"], len(self.labels))
        problems += [
            f"{what} {label} has no image to train on; add one or remove the {what}"
            for label, count, all_ in zip(self.labels, trained, counts, strict=True)
            if all_ and not count
        ]
        if self.paths and not (self.splits == "test").any():
            problems.append(f"{self.name} has no image to test with")
        return problems


def open_listing(listing: Listing, skip_damaged: bool = False) -> Source:
    """The source of listed files, each of which is decoded once: training does not stop hours later on a damaged one.

    Args:
        listing: the files.
        skip_damaged: leave damaged files out, instead of refusing them; the source's `skipped` names them.

    Raises:
        UsageError: what keeps the files from being used, all of it in one line.
    """
    if listing.problems:
        raise UsageError(named(listing.problems))
    damaged = damaged_files(listing.paths)
    if damaged and not skip_damaged:
        raise UsageError(damage_in_words(damaged))
    listing = listing.without(damaged)
    if problems := listing.unusable():
        raise UsageError(named(problems))
    splits = listing.split_of_each()
    parts = {name: listing.part(np.flatnonzero(splits == name)) for name in SPLITS}
    train, validation, test = (FileSplit(part.paths, part.targets) for part in parts.values())
    return Source(
        listing.name,
        listing.labels,
        3,
        None,
        train,
        test,
        validation if len(validation) else None,
        skipped=listing.skipped,
    )


def damaged_files(paths: Sequence[str]) -> dict[str, str]:
    """The files that cannot be decoded, and why."""

    def fault(path: str) -> str | None:
        try:
            decoder(3)(tf.io.read_file(path))
        except tf.errors.OpError as error:
            return undecodable(error)
        return None

    with standard_error_held(), concurrent.futures.ThreadPoolExecutor() as pool:  # libjpeg writes there itself
        faults = counted(pool.map(fault, paths), "checking images", len(paths))
        return {path: why for path, why in zip(paths, faults, strict=True) if why}


def damage_in_words(damaged: dict[str, str]) -> str:
    """What is refused of damaged files, in one line."""
    count = "1 image" if len(damaged) == 1 else f"{len(damaged)} images"
    faults = named([f"{path}: {why}" for path, why in damaged.items()])
    return f"{count} cannot be used, mend or remove, or leave out by --skip-damaged: {faults}"


def named(things: Sequence[str]) -> str:
    """Things in one line, of many the first and how many more there are."""
    more = len(things) - MOST_NAMED
    return "; ".join(things[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
