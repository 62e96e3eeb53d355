"""Training from records that do not fit in memory: speed, memory, resumption, hosts and shuffling, as one table.

Command: python -m benchmarks.streaming FOLDER [--minutes 10], on what `python -m benchmarks.shards FOLDER` wrote. Each
row is measured in a process of its own; bytes are those that the process read, by the kernel's count.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.costs import resident

RECIPE, BATCH = "imagenet-resnet50", 256
PAIRS, SECONDS = 5, 6.0
HOSTS, STEPS_OF_HOSTS = 4, 100


@dataclass
class Arguments:
    """Measure training from records in FOLDER."""

    folder: Annotated[Path, tyro.conf.Positional]
    minutes: float = 10
    """Of reading, whose memory is watched, and of training."""
    part: str = ""
    """One row, in this process: what the program calls itself with."""


def rows(arguments: Arguments) -> Iterator[tuple[str, str]]:
    """(what, value) of the table."""
    words = str(arguments.folder)
    yield "images; bytes of one", "{images:,}; {bytes:,.0f}".format(**part(words, "size"))
    speed = part(words, "speed")
    yield "decoded, nothing else", f"{speed['decoder']:,.0f} images/s"
    yield (
        f"{RECIPE}'s batches of {BATCH} at 224",
        "{ours:,.0f} images/s, {ratio:.2f} [{low:.2f}, {high:.2f}]".format(**speed),
    )
    for place in (0.0, 0.5, 0.98):
        begun = part(words, f"resume {place}")
        yield (
            f"first batch at {place:.0%} of an epoch",
            "{seconds:.1f} s, {read:.2f} GB read, {past:.1f} GB before it".format(**begun),
        )
    read = [part(words, f"host {host}")["read"] for host in range(HOSTS)]
    alone = part(words, "host whole")["read"]
    said = ", ".join(f"{gigabytes:.2f}" for gigabytes in read)
    yield f"GB read in {STEPS_OF_HOSTS} steps by one host; by each of {HOSTS}", f"{alone:.2f}; {said}"
    held = part(words, f"memory {60 * arguments.minutes}")
    yield (
        "resident memory while {images:,} images are read, medians of each fifth".format(**held),
        ", ".join(f"{gigabytes:.2f}" for gigabytes in held["resident"]) + " GB",
    )
    moved = part(words, "shuffling")
    yield "images of another epoch, moved by (median, of an epoch; a full shuffle 0.29)", f"{moved['moved']:.2f}"
    yield "neighbours in a file, apart in an epoch (median; 5 %)", "{apart:,.0f}; {near:,.0f} images".format(**moved)
    yield "neighbours in a file, in one batch (a full shuffle's)", "{together:.3%} ({chance:.3%})".format(**moved)
    yield "files that a batch comes from", f"{moved['files']:.0f}"
    yield from trained(arguments)


def part(folder: str, name: str) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.streaming", folder, "--part", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(folder: str, name: str) -> dict[str, Any]:
    """What `--part NAME` prints."""
    import resnet_keras as rk  # noqa: I001  (first: it keeps TensorFlow's start-up messages to itself)
    import tensorflow as tf

    from resnet_keras.config.recipes import recipe
    from resnet_keras.data.format import ImageFormat
    from resnet_keras.data.pipeline import training_batches
    from resnet_keras.data.sources import open_source
    from resnet_keras.data.splits import RecordSplit

    source, config = open_source("imagenet2012", folder), recipe(RECIPE)
    split = source.train
    assert isinstance(split, RecordSplit)
    steps = len(split) // BATCH
    size = sum(Path(file).stat().st_size for file in split.files) / len(split)

    def batches(first: int, shard: tuple[int, int] = (0, 1)) -> Any:
        shape, range_ = ImageFormat((224, 224), 3, rk.ModelCard()), {"first_step": first, "last_step": 100 * steps}
        options: dict[str, Any] = {"batch_size": BATCH, "seed": 0, "shard": shard} | range_
        return iter(training_batches(source, shape, config.augmentation, **options))

    def decoded(record: tf.Tensor) -> tf.Tensor:
        return tf.shape(tf.io.decode_jpeg(split.parse(record)[0], channels=3))

    if name == "size":
        return {"images": len(split), "bytes": size}
    if name == "speed":
        records = tf.data.TFRecordDataset(list(split.files)).repeat().map(decoded, tf.data.AUTOTUNE, deterministic=True)
        return _speed(batches(0), iter(records.batch(BATCH).prefetch(1)))
    if name.startswith("resume"):
        first = int(float(name.split()[1]) * steps)
        before, started = _read_bytes(), time.perf_counter()
        next(batches(first))
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "read": (_read_bytes() - before) / 1e9, "past": first * BATCH * size / 1e9}
    if name.startswith("host"):
        host = name.split()[1]
        before = _read_bytes()
        taken = batches(0, (0, 1) if host == "whole" else (int(host), HOSTS))
        for _ in range(STEPS_OF_HOSTS):
            next(taken)
        return {"read": (_read_bytes() - before) / 1e9}
    if name.startswith("memory"):
        return _memory(batches(0), float(name.split()[1]))
    return _shuffling(split.lengths)


def _memory(batches: Any, seconds: float) -> dict[str, Any]:
    """What the process holds while batches are read and nothing else, as fast as they come."""
    held, started, images = [], time.monotonic(), 0
    while time.monotonic() - started < seconds:
        next(batches)
        images += BATCH
        held.append(resident("VmRSS") * 2**20 / 1e9)
    return {"images": images, "resident": [float(np.median(fifth)) for fifth in np.array_split(held, 5)]}


def _speed(ours: Any, decoder: Any) -> dict[str, float]:
    """Images a second of two iterators that take turns; the other waits with its buffers full."""

    def rate(iterator: Any) -> float:
        for _ in range(3):  # what was read ahead meanwhile
            next(iterator)
        started, images = time.perf_counter(), 0
        while time.perf_counter() - started < SECONDS:
            next(iterator)
            images += BATCH
        return images / (time.perf_counter() - started)

    pairs = [(rate(ours), rate(decoder)) for _ in range(PAIRS)]
    low, ratio, high = np.percentile([a / b for a, b in pairs], (25, 50, 75))
    ours_rate, decoder_rate = np.median(pairs, 0)
    return {"ours": ours_rate, "decoder": decoder_rate, "low": low, "ratio": ratio, "high": high}


def _shuffling(lengths: tuple[int, ...]) -> dict[str, float]:
    """How far images move, by two epochs of records of their numbers alone, in files of the same lengths."""
    import tensorflow as tf

    from resnet_keras.data.order import Order
    from resnet_keras.data.splits import RecordSplit
    from resnet_keras.data.streams import records

    with tempfile.TemporaryDirectory() as folder:
        files, number = [], 0
        for index, length in enumerate(lengths):
            files.append(f"{folder}/{index}")
            with tf.io.TFRecordWriter(files[-1]) as writer:
                for _ in range(length):
                    writer.write(str(number).encode())
                    number += 1

        def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return record, tf.strings.to_number(record, tf.int64)

        split = RecordSplit(tuple(files), lengths, parse)
        order = Order(number, number // BATCH, BATCH, 1, 0)
        read = records(split, order, np.arange(BATCH), lambda image, position: image, range(2 * order.steps))
        seen = np.array([int(target) for *_, target in read.as_numpy_iterator()]).reshape(2, -1)
    places = np.full((2, number), np.nan)  # an epoch leaves out the last of each lane
    for epoch in range(2):
        places[epoch, seen[epoch]] = np.arange(len(seen[epoch]))
    file_of = np.repeat(np.arange(len(lengths)), lengths)
    steps = np.diff(places[0])[np.diff(file_of) == 0]
    apart = np.abs(steps[np.isfinite(steps)])
    batch_of = places[0] // BATCH
    together = (np.diff(batch_of) == 0)[np.diff(file_of) == 0].mean()
    return {
        "moved": float(np.nanmedian(np.abs(places[1] - places[0])) / number),
        "apart": float(np.median(apart)),
        "near": float(np.percentile(apart, 5)),
        "together": float(together),
        "chance": (BATCH - 1) / (number - 1),
        "files": float(np.mean([len(set(file_of[batch])) for batch in seen[0].reshape(-1, BATCH)])),
    }


def trained(arguments: Arguments) -> Iterator[tuple[str, str]]:
    """A training that is stopped in the middle of its epoch, and goes on."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        words = ["train", RECIPE, "--data-dir", str(arguments.folder), "--run-dir", str(run), "--model", "resnet18"]
        words += ["--image-size", "64", "--batch-size", str(BATCH), "--checkpoint-steps", "20", "--validation", "0"]
        end = time.monotonic() + 60 * arguments.minutes
        seconds, _, first = _until(lambda: time.monotonic() > end, words, run)
        last = _step(run)
        yield (
            f"ResNet-18 at 64, {seconds / 60:.0f} minutes of training",
            f"{(last - first) * BATCH / seconds:,.0f} images/s",
        )
        seconds, read, _ = _until(lambda: _step(run) > last, words, run)
        yield f"resumed at step {last:,} of the epoch, to its next checkpoint", f"{seconds:.0f} s, {read:.2f} GB read"


def _until(reached: Callable[[], bool], words: list[str], run: Path) -> tuple[float, float, int]:
    """Train until something is reached: seconds since the first checkpoint, or since the command of a run that goes on;
    GB read; the first checkpoint's step."""
    before, started, first, read = _step(run), time.monotonic(), 0, 0.0
    with subprocess.Popen([sys.executable, "-m", "resnet_keras", *words, "--quiet"]) as process:
        while process.poll() is None and not reached():
            time.sleep(0.5)
            read = _read_bytes(process.pid) / 1e9
            if not first and _step(run) > before:
                first, started = _step(run), started if before else time.monotonic()
        taken = time.monotonic() - started
        process.send_signal(signal.SIGTERM)
        if process.wait() != 130:
            raise SystemExit(f"the training ended with exit code {process.returncode}")
    return taken, read, first


def _step(run: Path) -> int:
    """Of the newest checkpoint."""
    return max((int(path.stem.split("-")[1]) for path in run.glob("checkpoints/step-*.npz")), default=0)


def _read_bytes(process: int | str = "self") -> int:
    return int(Path(f"/proc/{process}/io").read_text().split("\n")[0].split()[1])


def main(arguments: Arguments) -> None:
    if arguments.part:
        print(json.dumps(measured(str(arguments.folder), arguments.part)))
        return
    print("| measured | |\n|---|---|")
    for what, value in rows(arguments):
        print(f"| {what} | {value} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
