"""Two logical CPU devices for the tests of MirroredStrategy, and small real things to test with."""

import dataclasses
import fcntl
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# XLA compiles the same code, unoptimised, in half the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import numpy as np
import pytest
import tensorflow as tf
from forked import Server
from small import TINY

import resnet_keras as rk
from resnet_keras.config.recipes import recipe
from resnet_keras.config.train import TrainConfig
from resnet_keras.data import tfds_source
from resnet_keras.data.sources import open_source
from resnet_keras.training import reporters

if TYPE_CHECKING:
    from selenium import webdriver

gc.freeze()  # the imports, which would be searched again and again
gc.set_threshold(20_000, 20, 20)
if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each process; the commands they start have both, as a user's
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


LONG = (
    "remote/test_remote_runs.py",
    "training/test_training.py",
    "export/test_export.py",
    "training/test_resume.py",
    "training/test_step.py",
    "models/test_family.py",
    "training/test_several_labels.py",
    "publishing/test_publish.py",
    "experiments/test_experiments.py",
    "tuning/test_tuning.py",
    "training/test_multiworker.py",
    "training/test_quantize.py",
    "serving/test_serving_load.py",
    "training/test_given.py",
    "training/test_phases.py",
    "training/test_calibrate.py",
    "inference/test_use.py",
    "models/test_fit.py",
    "models/test_resnet.py",
)
"""Files that take longest: they begin first, so that none is left for the end, when the other processes are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(LONG)))


@pytest.fixture
def only_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs have the reporter that writes models, and no other."""
    monkeypatch.setattr(reporters, "all_reporters", lambda quiet: [reporters.ModelFiles])


class Shared:
    """Folders that the processes of the tests have in common."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str, make: Callable[[Path], object]) -> Path:
        """The first process to need a folder makes it, while the others that need it wait."""
        folder = self.root / name
        with open(self.root / f"{name}.made", "a") as made:
            fcntl.flock(made, fcntl.LOCK_EX)
            if not os.path.getsize(made.fileno()):
                make(folder)
                made.write("1")
        return folder


@pytest.fixture(scope="module", autouse=True)
def searched_once() -> Iterator[None]:
    """What a file's tests leave in memory is searched for garbage once, not by each export and server behind it."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def in_common(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    own = tmp_path_factory.getbasetemp()
    return Shared(own.parent if hasattr(request.config, "workerinput") else own)


@pytest.fixture(scope="session")
def data_dir(in_common: Shared) -> str:
    """Where the digits are prepared, once for all tests."""
    return str(in_common.folder("tfds", lambda folder: open_source("digits", str(folder))))


@pytest.fixture(scope="session", autouse=True)
def unchanged_files_are_read_once() -> Iterator[None]:
    """The digits, which each run would read again."""
    read, known = tfds_source._array_split, {}

    def read_once(builder: Any, split: str, *keys: str) -> Any:
        files = [Path(path) for path in builder.info.splits[split].filepaths]
        key = (split, *keys, *((path, path.stat().st_mtime_ns) for path in files if path.exists()))
        if key not in known:
            known[key] = read(builder, split, *keys)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds_source, "_array_split", read_once)
        yield


@pytest.fixture(scope="module", autouse=True)
def graphs_as_they_are(request: pytest.FixtureRequest) -> Iterator[None]:
    """In these rooms without TensorFlow's rewriting of graphs, which takes longer than a few steps win by it.

    The commands that tests start, and the tests of the other rooms, have it.
    """
    off = request.path.parent.name in ("data", "experiments", "remote", "training", "tuning")
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": off})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture(scope="session")
def quick(data_dir: str) -> TrainConfig:
    """The digits recipe, two epochs long, with a block a stage."""
    options = {"blocks": "1,1,1"}
    return dataclasses.replace(recipe("digits"), data_dir=data_dir, epochs=2, batch_size=128, model_options=options)


@pytest.fixture(scope="session")
def tiny(quick: TrainConfig) -> TrainConfig:
    """`quick` with a tiny net, where the net is not the point. Train it with `trainer.run`, without reporters."""
    return dataclasses.replace(quick, model_options=TINY)


@pytest.fixture(scope="session")
def digits_run(quick: TrainConfig, in_common: Shared) -> Path:
    """A run folder that a real training wrote."""
    return in_common.folder(
        "digits_run", lambda folder: rk.train(dataclasses.replace(quick, run_dir=str(folder)), quiet=True)
    )


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Starts commands of `resnet-keras` in processes of their own."""
    with Server(tmp_path_factory.mktemp("commands")) as server:
        yield server


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[webdriver.Chrome]":
    """Chromium, for the pages: one for all tests of a process."""
    from browser import chromium

    with chromium(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture(scope="session")
def servable(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported version folder of that run."""
    return rk.export_servable(digits_run, tmp_path_factory.mktemp("saved_models") / "digits")


@pytest.fixture(scope="session")
def digit_png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An 8x8 grey image."""
    path = tmp_path_factory.mktemp("images") / "digit.png"
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 1), "uint8")
    path.write_bytes(tf.io.encode_png(pixels).numpy())
    return path


@pytest.fixture(scope="session")
def several_table(in_common: Shared) -> Path:
    """A table of 150 images of 20x20 pixels with several labels, one or none: each is a patch of its colour."""

    def make(folder: Path) -> None:
        folder.mkdir()
        rng, rows = np.random.default_rng(0), ["image,label"]
        for i in range(150):
            has = rng.random(3) < (0.5, 0.4, 0.25)
            pixels = rng.integers(0, 60, (20, 20, 3))
            for channel, (top, left) in enumerate(rng.integers(0, 12, (3, 2))):
                pixels[top : top + 8, left : left + 8, channel] += 170 * has[channel]
            (folder / f"{i}.png").write_bytes(tf.io.encode_png(pixels.astype("uint8")).numpy())
            rows.append(f"{i}.png,{'|'.join(np.array(['red', 'green', 'blue'])[has])}")
        (folder / "data.csv").write_text("\n".join(rows))

    return in_common.folder("several", make) / "data.csv"


@pytest.fixture(scope="session")
def several_run(tiny: TrainConfig, several_table: Path, in_common: Shared) -> Path:
    """A run folder of several labels an image."""
    changes = {"data": str(several_table), "image_size": 16, "batch_size": 15, "epochs": 12, "validation": 0.3}
    config = dataclasses.replace(tiny, **changes)
    return in_common.folder(
        "several_run", lambda folder: rk.train(dataclasses.replace(config, run_dir=str(folder)), quiet=True)
    )


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A `class/file` folder of 12 JPEG images of different sizes in 2 classes, told apart by their colour."""
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    for label, colour in (("blue", (30, 60, 200)), ("red", (200, 60, 30))):
        (folder / label).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 50, (20 + i, 24, 3)) + colour
            (folder / label / f"{i}.jpg").write_bytes(tf.io.encode_jpeg(pixels.clip(0, 255).astype("uint8")).numpy())
    return folder
