"""Images that stand more than once in a data set: the same file, the same pixels, or nearly the same."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from resnet_keras.progress import counted

MOST_COMPARED = 50_000
"""Images of which each is compared with each for near-duplicates."""
NEAR = 4.0
"""Greatest root of the mean squared difference, in levels of 255, between the small copies of near-duplicates."""
NEAR_PART = 0.1
"""The same, as a part of the image's own deviation: so that two nearly plain images are not taken for one."""
BLOCK = 1024

Kind = Literal["file", "pixels", "near"]


@dataclass(frozen=True)
class Group:
    """Two images or more that are one."""

    kind: Kind
    """file: all have the same bytes; pixels: the same pixels, in other files; near: after compression or resizing."""
    members: tuple[int, ...]
    """Places in the data, rising."""


def duplicate_groups(
    file_hashes: Sequence[Hashable], pixel_hashes: Sequence[Hashable], thumbs: np.ndarray
) -> list[Group]:
    """The groups among images, in the order of their first members. An image is in one at most.

    Args:
        file_hashes: of each image.
        pixel_hashes: of each image, decoded.
        thumbs: uint8 [N, 16, 16, 3], the small copy of each.
    """
    by_pixels: dict[Hashable, list[int]] = defaultdict(list)
    for place, pixels in enumerate(pixel_hashes):
        by_pixels[pixels].append(place)
    copies = {members[0]: members for members in by_pixels.values()}
    first = np.array(sorted(copies), "int64")
    near = _components(first[near_pairs(thumbs[first])])
    alone = set(copies).difference(*near)
    groups = []
    for firsts in [*near, *([i] for i in alone if len(copies[i]) > 1)]:
        members = sorted(i for one in firsts for i in copies[one])
        kind = "near" if len(firsts) > 1 else "file" if len({file_hashes[i] for i in members}) == 1 else "pixels"
        groups.append(Group(kind, tuple(members)))
    return sorted(groups, key=lambda group: group.members)


def near_pairs(thumbs: np.ndarray) -> np.ndarray:
    """Pairs of near-duplicates among different images, int64 [P, 2], the first below the second.

    Two images are near where their small copies are: they look the same to a person. Copies of an image in JPEG of
    quality 50, or of half the size, are; neighbours in a series of photographs are 11 levels apart and more on the
    sign-language digits, and are not.
    """
    count = len(thumbs)
    if not 1 < count <= MOST_COMPARED:
        return np.zeros((0, 2), "int64")
    fine = thumbs.reshape(count, -1).astype("float32")
    # Means of fields are never farther apart than the fields: few numbers find all candidates.
    coarse = thumbs.reshape(count, 4, 4, 4, 4, 3).mean((2, 4), dtype="float32").reshape(count, -1)
    lengths, found = (coarse**2).sum(1), []
    limit = np.minimum(NEAR, NEAR_PART * fine.reshape(count, -1, 3).std(1).max(1))
    for start in counted(range(0, count, BLOCK), "comparing images", -(-count // BLOCK), ""):
        stop = min(start + BLOCK, count)
        squares = lengths[start:stop, None] + lengths[None, start:] - 2 * coarse[start:stop] @ coarse[start:].T
        # Rounding of the squares is far below one level.
        rows, columns = np.nonzero(squares <= coarse.shape[1] * (limit[start:stop, None] + 0.5) ** 2)
        rows, columns = (places[rows < columns] + start for places in (rows, columns))
        apart = np.sqrt(np.mean((fine[rows] - fine[columns]) ** 2, axis=1)) if len(rows) else np.zeros(0)
        near = apart <= np.minimum(limit[rows], limit[columns])
        found.append(np.stack([rows[near], columns[near]], 1))
    return np.concatenate(found).astype("int64")


def _components(pairs: np.ndarray) -> list[list[int]]:
    """What the pairs hold together, directly or by others."""
    parent: dict[int, int] = {}

    def root(place: int) -> int:
        while parent.setdefault(place, place) != place:
            parent[place] = place = parent[parent[place]]
        return place

    for one, other in pairs.tolist():
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    groups: dict[int, list[int]] = defaultdict(list)
    for place in sorted(parent):
        groups[root(place)].append(place)
    return list(groups.values())
