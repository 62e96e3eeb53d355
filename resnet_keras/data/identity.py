"""Whether data are the same as before: a digest of them, which a run keeps."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras.data.splits import ArraySplit, FileSplit, RecordSplit, Source, Split


def identity_of(source: Source) -> dict[str, Any]:
    """What says whether a source has changed: its numbers of images, and a digest.

    Of arrays the digest is of all pixels and labels; of files, of their names, classes and sizes; of a dataset of
    `tf.data`, of the number of images alone, since nobody knows what it will give.
    """
    digest = hashlib.sha256("\n".join(source.labels).encode("utf-8", "surrogateescape"))
    counts = {"training": len(source.train), "test": len(source.test)}
    splits = [source.train, source.test]
    if source.validation:
        counts["validation"] = len(source.validation)
        splits.append(source.validation)
    for split in splits:
        _add(digest, split)
    return {**counts, "digest": digest.hexdigest()[:16]}


def _add(digest: Any, split: Split) -> None:
    digest.update(f"{type(split).__name__} {len(split)}".encode())
    if isinstance(split, ArraySplit):
        digest.update(f"{split.images.dtype} {split.images.shape}".encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.targets).data)
    elif isinstance(split, FileSplit | RecordSplit):
        paths, numbers = (
            (split.paths, split.targets.tolist()) if isinstance(split, FileSplit) else (split.files, split.lengths)
        )
        for path, number in zip(paths, numbers, strict=True):
            name = "/".join(Path(path).parts[-2:])
            digest.update(f"{name} {os.path.getsize(path)} {number}\n".encode("utf-8", "surrogateescape"))
