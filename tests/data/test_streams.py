"""Records that are streamed: what each host reads, and what a run that goes on reads again."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.config.augmentation import Augmentation
from resnet_keras.data import streams
from resnet_keras.data.format import ImageFormat
from resnet_keras.data.pipeline import training_batches
from resnet_keras.data.splits import RecordSplit, Source
from resnet_keras.models.card import ModelCard

FILES, IN_A_FILE = 16, 20
SHAPE = ImageFormat((1, 2), 1, ModelCard(mean=(0.5,), std=(0.25,), crop=1.0))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Images of two pixels, which are the image's number, in 16 files of 19 or 21."""
    files, lengths, number = [], [], 0
    for part in range(FILES):
        files.append(str(tmp_path / f"{part}.tfrecord"))
        lengths.append(IN_A_FILE + (-1) ** part)
        with tf.io.TFRecordWriter(files[-1]) as writer:
            for _ in range(lengths[-1]):
                writer.write(bytes(divmod(number, 256)))
                number += 1

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.reshape(tf.io.decode_raw(record, tf.uint8), [1, 2, 1]), tf.constant(0, tf.int64)

    split = RecordSplit(tuple(files), tuple(lengths), parse)
    return Source("records", ("one", "two"), 1, (1, 2), split, split)


def numbers(source: Source, steps: range, batch_size: int = 32, shard: tuple[int, int] = (0, 1), seed: int = 0) -> Any:
    """The images of each step, by their numbers."""
    options: dict[str, Any] = {"first_step": steps.start, "last_step": steps.stop, "shard": shard, "seed": seed}
    data = training_batches(source, SHAPE, Augmentation(), batch_size=batch_size, **options)
    return np.array([x.reshape(-1, 2).astype("int64") @ (256, 1) for x, _ in data.as_numpy_iterator()])


def read_of(source: Source, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the number of every record that is read from now on."""
    read: list[int] = []
    original = tf.data.TFRecordDataset

    def noted(record: bytes) -> bytes:
        read.append(record[0] * 256 + record[1])
        return record

    def counted(file: tf.Tensor) -> tf.data.Dataset:
        note = lambda record: tf.ensure_shape(tf.numpy_function(noted, [record], tf.string), [])  # noqa: E731
        return original(file).map(note)

    monkeypatch.setattr(tf.data, "TFRecordDataset", counted)
    return read


@pytest.mark.parametrize("batch_size", [32, 24, 7, 320])
def test_an_epoch_has_each_image_at_most_once(source: Source, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SHUFFLE_WINDOW", 48)
    steps = len(source.train) // batch_size
    seen = numbers(source, range(2 * steps), batch_size)
    first, second = seen[:steps].ravel(), seen[steps:].ravel()
    assert len(set(first)) == len(set(second)) == steps * batch_size
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, numbers(source, range(steps), batch_size, seed=1).ravel())


@pytest.mark.parametrize("window", [16, 16_384])
def test_any_step_and_host_has_its_part_of_the_whole(
    source: Source, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SHUFFLE_WINDOW", window)
    whole = numbers(source, range(24))  # ten are an epoch
    for first, hosts in ((1, 2), (9, 32), (14, 4), (19, 1)):
        part, last = np.arange(32).reshape(hosts, -1)[hosts - 1], min(first + 5, 24)
        got = numbers(source, range(first, last), shard=(hosts - 1, hosts))
        np.testing.assert_array_equal(got, whole[first:last, part])


def test_hosts_read_lanes_of_their_own(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the sixteen lanes, four hosts read four each, and of them no more than what a file begins with."""
    read, seen = read_of(source, monkeypatch), []
    for host in range(4):
        read.clear()
        seen.append(set(numbers(source, range(10), shard=(host, 4)).ravel()))
        assert len(seen[-1]) == 80
        assert len(read) <= 80 + 4 * IN_A_FILE
    assert len(set.union(*seen)) == 320


def test_a_run_goes_on_without_what_it_has_read(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SHUFFLE_WINDOW", 16)
    whole = numbers(source, range(20), 4)  # four lanes of four files, one record of each a step
    read = read_of(source, monkeypatch)
    np.testing.assert_array_equal(numbers(source, range(16, 20), 4), whole[16:])
    before = set(whole[:16].ravel())
    assert len(read) <= 4 * (IN_A_FILE + 1 + 4 + 4)  # of each lane a file, a window, what the steps take
    assert len(before & set(read)) <= 64


def test_files_before_the_step_are_not_opened(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be gone."""
    monkeypatch.setattr(streams, "SHUFFLE_WINDOW", 16)
    steps = len(source.train) // 4
    whole = numbers(source, range(steps), 4)
    done = set(whole[: steps - 6].ravel())
    gone, number = 0, 0
    for file, length in zip(source.train.files, source.train.lengths, strict=True):  # pyright: ignore
        if set(range(number, number + length)) <= done:
            Path(file).unlink()
            gone += 1
        number += length
    assert gone >= FILES // 3
    np.testing.assert_array_equal(numbers(source, range(steps - 4, steps), 4), whole[-4:])


def test_windows_of_the_lanes_end_at_steps_of_their_own() -> None:
    split = RecordSplit(tuple(map(str, range(32))), (4096,) * 32, lambda record: (record, record))
    order = streams.Order(len(split), len(split) // 256, 256, 1, 0)
    lanes = streams.Lanes.of(split, order)
    ends = {(lane + 1) * lanes.window // lanes.count % lanes.window for lane in range(lanes.count)}
    assert (lanes.count, lanes.window) == (16, 1024)
    assert ends == set(range(0, 1024, 64))


@pytest.mark.parametrize(
    ("files", "batch", "lanes"), [(1, 32, 1), (5, 32, 4), (1024, 32, 16), (1024, 24, 8), (9, 7, 1)]
)
def test_lanes_divide_a_batch(files: int, batch: int, lanes: int) -> None:
    split = RecordSplit(tuple(map(str, range(files))), (100,) * files, lambda record: (record, record))
    found = streams.Lanes.of(split, streams.Order(len(split), len(split) // batch, batch, 1, 0))
    assert (found.count, found.share) == (lanes, batch // lanes)
    assert found.length == math.floor(100 * files / lanes)
