"""TensorFlow Datasets as a source: prepared data is read, the rest is downloaded where there is a network."""

import contextlib
import difflib
import io
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import absl.logging
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from resnet_keras.data.digits import Digits
from resnet_keras.data.splits import FITS_IN_MEMORY, ArraySplit, RecordSplit, Source, Split
from resnet_keras.errors import UsageError, reason
from resnet_keras.progress import progress
from resnet_keras.remote.copies import folder_copy
from resnet_keras.remote.stores import is_remote

# ImageNet's own test split has no labels.
TEST_SPLIT = {"imagenet2012": "validation"}
LOOK_SECONDS = 0.5
"""Between two looks at what has been downloaded and prepared."""


def is_known(name: str) -> bool:
    """Whether TensorFlow Datasets has a data set of this name (`name`, `name/config` or `name:version`)."""
    return _bare(name) in {"digits", *tfds.list_builders(with_community_datasets=False)}


def near_names(name: str) -> list[str]:
    """The names most like this one."""
    known = ["digits", *tfds.list_builders(with_community_datasets=False)]
    return difflib.get_close_matches(_bare(name), known, n=3, cutoff=0.6)


def _bare(name: str) -> str:
    return name.split("/")[0].split(":")[0]


def open_tfds(name: str, data_dir: str | None) -> Source:
    """Open a data set by name. Raises `UsageError` for one that is not available or has no images with labels."""
    tfds.disable_progress_bar()
    given = data_dir
    if data_dir and is_remote(data_dir):
        data_dir = str(folder_copy(data_dir, _bare(name)))
    data_dir = str(Path(data_dir).expanduser()) if data_dir else None
    absl.logging.set_verbosity(absl.logging.ERROR)  # it warns of a folder that it is about to create
    try:
        builder = Digits(data_dir=data_dir) if name == "digits" else tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # an unknown config or version, or a damaged folder: a dozen kinds
        raise UsageError(f"--data {name} cannot be opened: {reason(error)}") from error
    image_key, label_key = _keys(builder)
    if not builder.is_prepared():
        if given and is_remote(given):
            raise UsageError(f"{given} has no prepared {name}; prepare it in a folder, and copy that there")
        _download_and_prepare(builder)
    splits = builder.info.splits
    test = TEST_SPLIT.get(_bare(name), "test" if "test" in splits else "validation")
    if "train" not in splits or test not in splits:
        raise UsageError(f"--data {name} has no training and test split, only {', '.join(splits)}")
    image, label = builder.info.features[image_key], builder.info.features[label_key]
    height, width, channels = image.shape
    fixed = height is not None and width is not None
    total = splits["train"].num_examples + splits[test].num_examples
    in_memory = fixed and total * height * width * channels <= FITS_IN_MEMORY
    read = _array_split if in_memory else _record_split
    return Source(
        name=name,
        labels=tuple(label.names),
        channels=channels or 3,
        image_size=(height, width) if height and width else None,
        train=read(builder, "train", image_key, label_key),
        test=read(builder, test, image_key, label_key),
    )


def _keys(builder: Any) -> tuple[str, str]:
    keys, features = builder.info.supervised_keys, builder.info.features
    if keys and len(keys) == 2 and all(isinstance(key, str) for key in keys):
        image, label = (features[key] for key in keys)
        if isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel):
            return keys
    raise UsageError(f"--data {builder.name} is not a data set of images with one class each")


def _download_and_prepare(builder: Any) -> None:
    if builder.name != "digits":
        # TensorFlow Datasets itself retries for minutes.
        page = builder.info.homepage
        if page and not _reachable(page):
            host = urllib.parse.urlsplit(page).hostname
            raise UsageError(
                f"--data {builder.name} is not prepared in {builder.data_dir_root} and there is no network to "
                f"{host}; connect, or give --data-dir the folder of a prepared copy"
            )
    try:
        output = sys.stderr if builder.name != "digits" else io.StringIO()
        with contextlib.redirect_stdout(output), _growth_shown(builder):
            builder.download_and_prepare()
    except (OSError, AssertionError, tfds.download.DownloadError, tf.errors.OpError) as error:
        if builder.is_prepared():  # by another process, meanwhile
            return
        raise UsageError(f"--data {builder.name} cannot be prepared: {reason(error)}") from error


@contextlib.contextmanager
def _growth_shown(builder: Any) -> Iterator[None]:
    """Within it, the progress of a download and of what is made of it, by the bytes of both on the disk.

    TensorFlow Datasets has bars of its own for each file and split, on standard error, which know no whole.
    """
    folders = Path(builder.data_dir_root) / "downloads", Path(builder.data_dir).parent
    expected = int(builder.info.download_size or 0) + int(builder.info.dataset_size or 0)
    before, ended = _bytes_in(*folders), threading.Event()
    with progress(f"preparing {builder.name}", expected or None, "B") as task:

        def watch() -> None:
            while not ended.wait(LOOK_SECONDS):
                task.to(_bytes_in(*folders) - before)

        reporter = threading.Thread(target=watch, daemon=True)
        reporter.start()
        try:
            yield
        finally:
            ended.set()
            reporter.join()


def _bytes_in(downloads: Path, prepared: Path) -> int:
    """The bytes of downloads, finished or not, but not of what is unpacked of them; and of prepared versions."""
    files = [*downloads.glob("*"), *downloads.glob("*.tmp.*/*"), *prepared.glob("*"), *prepared.glob("*/*")]
    total = 0
    for file in files:
        with contextlib.suppress(OSError):  # it has been renamed meanwhile
            total += file.stat().st_size if file.is_file() else 0
    return total


def _reachable(page: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(page, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True  # it answered
    except OSError:
        return False
    return True


def _array_split(builder: Any, split: str, image_key: str, label_key: str) -> Split:
    images, targets = [], []
    dataset = builder.as_dataset(split=split, batch_size=1024, shuffle_files=False)
    try:
        with progress(f"reading {builder.name} {split}", builder.info.splits[split].num_examples, "images") as task:
            for batch in tfds.as_numpy(dataset):
                images.append(batch[image_key])
                targets.append(batch[label_key])
                task.add(len(batch[label_key]))
    except tf.errors.OpError as error:
        raise UsageError(f"--data {builder.name} in {builder.data_dir} is damaged: {reason(error)}") from error
    return ArraySplit(np.concatenate(images), np.concatenate(targets).astype("int64"))


def _record_split(builder: Any, split: str, image_key: str, label_key: str) -> Split:
    info = builder.info.splits[split]
    features = builder.info.features

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = features.deserialize_example(record, decoders={image_key: tfds.decode.SkipDecoding()})
        return example[image_key], tf.cast(example[label_key], tf.int64)

    return RecordSplit(tuple(str(path) for path in info.filepaths), tuple(info.shard_lengths), parse)
