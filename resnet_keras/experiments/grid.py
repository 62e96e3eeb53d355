"""Nets times seeds, each trained into a run folder of its own, so that a stopped experiment can be resumed."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from resnet_keras.config.run_folder import METRICS, new_folder_name
from resnet_keras.config.table import EpochRow, read_table
from resnet_keras.config.train import TrainConfig, flat
from resnet_keras.data.format import ImageFormat, image_format
from resnet_keras.data.pipeline import evaluation_batches, steps_per_epoch
from resnet_keras.data.splits import Source
from resnet_keras.errors import UsageError
from resnet_keras.experiments.experiment_config import ExperimentConfig, Net
from resnet_keras.files import json_text, read_json, write_text, writing_to
from resnet_keras.inference.evaluate import Evaluator
from resnet_keras.models.complexity import complexity
from resnet_keras.models.saved import load_model
from resnet_keras.progress import Progress, say
from resnet_keras.training import trainer
from resnet_keras.training.callbacks import MakeCallback
from resnet_keras.training.reporters import ModelFiles, all_reporters

MARK, MEASURED = "experiment.json", "measured.json"
AGAIN = "remove its folder, and the net is trained again"


@dataclass(frozen=True)
class Trained:
    """A net after its training. Losses are cross-entropy in nats an image, accuracies fractions."""

    kind: str
    depth: int
    seed: int
    train_loss: float
    """Of the finished net in inference mode, over the training images as they are."""
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    parameters: int
    steps: int
    seconds: float
    epochs: tuple[EpochRow, ...]
    """The table of the run: `loss` and `accuracy` of the training batches, `val_accuracy` of the test split."""
    folder: Path

    def to_dict(self) -> dict[str, Any]:
        """What `--json` has of it."""
        hidden = ("epochs", "folder")
        return {name: value for name, value in vars(self).items() if name not in hidden}

    def model(self) -> keras.Model:
        """The trained net, from raw pixels to probabilities."""
        return load_model(self.folder)


PROTOCOL = (
    "data",
    "epochs",
    "batch_size",
    "learning_rate",
    "momentum",
    "nesterov",
    "weight_decay",
    "decay",
    "warmup",
    "crop",
    "flip",
    "precision",
)
"""Fields of the config that a page of an experiment shows."""


def open_folder(settings: ExperimentConfig, name: str) -> Path:
    """The folder of an experiment, made or found again. Raises `UsageError` where it holds something else."""
    folder = Path(settings.run_dir).expanduser() if settings.run_dir else new_folder_name(name)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give another --run-dir")
    mark, now = folder / MARK, {"experiment": name, **_protocol(settings)}
    with writing_to(folder):
        if folder.exists() and any(folder.iterdir()):
            if not mark.is_file():
                raise UsageError(f"{folder} is not empty; give another --run-dir")
            before = read_json(mark, "give another --run-dir")
            if changed := [field for field in {**now, **before} if before.get(field) != now.get(field)]:
                changes = ", ".join(f"{field} {before.get(field)!r}, now {now.get(field)!r}" for field in changed)
                raise UsageError(f"{folder} holds an experiment with {changes}; give another --run-dir")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(mark, json_text(now) + "\n")
    return folder


def _protocol(settings: ExperimentConfig) -> dict[str, Any]:
    """What all nets of an experiment's folder have in common."""
    fields = flat(settings.protocol())
    # Folders of before there were others say no network.
    other = {} if settings.network == "resnet" else {"network": settings.network, "algorithm": fields["algorithm"]}
    return {**{name: fields[name] for name in PROTOCOL}, "first_width": settings.first_width, **other}


def protocol_of(settings: ExperimentConfig, folder: Path) -> dict[str, Any]:
    """How the nets in an experiment's folder were trained, and where."""
    found = (read_json(path, AGAIN).get("environment", {}) for path in folder.glob(f"*/{METRICS}"))
    environment = next(found, {})
    return {**_protocol(settings), **environment}


def train_all(
    nets: Sequence[Net],
    settings: ExperimentConfig,
    source: Source,
    folder: Path,
    reporters: Sequence[MakeCallback] = (),
    *,
    pages: bool = True,
) -> Iterator[Trained]:
    """Train each net with each seed, seed after seed, and yield it.

    The runs are folders below `folder`; those that are finished there are read. `source` is the data of the protocol.
    `pages`: each has its report and its TensorBoard log, which take a fifth of the time of a short run.
    """
    usual = all_reporters if pages else lambda quiet: [ModelFiles]
    total, done, started = len(nets) * settings.seeds, 0, time.perf_counter()
    task = Progress("training nets", total)
    for seed in range(settings.seed, settings.seed + settings.seeds):
        for net in nets:
            run = folder / f"{net.name}-seed{seed}"
            # An epoch of digits takes a second or two; longer ones show how they go.
            quiet = settings.quiet or settings.data == "digits"
            trained = _train(net.config(settings, seed, str(run)), net, source, quiet, [*usual(quiet), *reporters])
            done += 1
            task.add()
            left = (time.perf_counter() - started) / done * (total - done)
            if not settings.quiet:
                found = f"training loss {trained.train_loss:.4g}, test accuracy {trained.test_accuracy:.4f}"
                who = f"{net.kind}, {net.depth} layers, seed {seed}"
                say(f"{done} of {total}: {who}: {found}; {left / 60:.1f} minutes left")
            yield trained
            keras.utils.clear_session()
    task.end()


def _train(config: TrainConfig, net: Net, source: Source, quiet: bool, reporters: Sequence[MakeCallback]) -> Trained:
    result = trainer.run(config, quiet=quiet, reporters=reporters)
    run = result.run_dir
    path = run / MEASURED
    if not path.is_file():
        measured = _measure(result.model, source, config.batch_size)
        write_text(path, json_text(measured) + "\n")
    measured = read_json(path, AGAIN)
    metrics = read_json(run / METRICS, AGAIN)
    return Trained(
        kind=net.kind,
        depth=net.depth,
        seed=config.seed,
        **measured,
        test_loss=metrics["loss"],
        test_accuracy=metrics["accuracy"],
        steps=metrics["epochs"] * steps_per_epoch(source.train, config.batch_size),
        seconds=metrics["seconds"],
        epochs=tuple(read_table(run)),
        folder=run,
    )


def training_images(source: Source, shape: ImageFormat, count: int) -> tuple[Any, Any]:
    """The first training images as they are, `[N, H, W, C]`, 0 to 255, and their labels, one-hot."""
    return next(iter(evaluation_batches(_on_training(source), shape, count)))


def _on_training(source: Source) -> Source:
    """A source to evaluate on the images that train."""
    return dataclasses.replace(source, test=source.train)


def _measure(model: keras.Model, source: Source, batch_size: int) -> dict[str, float]:
    batches = evaluation_batches(_on_training(source), image_format(model), batch_size)
    found = Evaluator(model, source.labels)(batches, len(source.train))
    parameters = complexity(model).trainable_parameters
    return {"train_loss": found.loss, "train_accuracy": found.accuracy, "parameters": parameters}
