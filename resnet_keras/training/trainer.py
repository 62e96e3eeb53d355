"""`train(config)`: data, network, optimizer, fit, evaluation, and the run folder that holds them."""

import contextlib
import dataclasses
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from resnet_keras.card import ModelCard
from resnet_keras.config import TrainConfig
from resnet_keras.data.pipeline import PictureFormat, evaluation_batches, steps_per_epoch, training_batches
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import Source, statistics
from resnet_keras.errors import UsageError, unknown
from resnet_keras.evaluation import Evaluation, Evaluator
from resnet_keras.features import freeze
from resnet_keras.files import json_text, write_text, writing_to
from resnet_keras.names import hub_name, named
from resnet_keras.reporting import write_report
from resnet_keras.runs import (
    CONFIG,
    LOGS,
    METRICS,
    MODEL,
    card_layer,
    new_run_folder,
    save_model,
)
from resnet_keras.specs import ResNetSpec
from resnet_keras.training.callbacks import Progress, RunWriter
from resnet_keras.training.devices import describe, make_strategy, use_xla
from resnet_keras.training.optimization import make_optimizer
from resnet_keras.weights.loading import assign, classes_of, find_weights, is_own_file, load_weights
from resnet_keras.weights.reading import Weights
from resnet_keras.weights.units import Network
from resnet_keras.zoo import complexity, create_model


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves."""

    model: keras.Model
    """From raw pixels, 0 to 255, to probabilities."""
    metrics: dict[str, Any]
    """loss, accuracy, top5_accuracy and examples on the test split, and how the run went."""
    run_dir: Path


def train(config: TrainConfig, *, quiet: bool = False) -> TrainResult:
    """Train a network as a config says, and write its run folder.

    The folder has `config.json`, `metrics.csv` (a row an epoch), `metrics.json`, `model.keras`,
    `checkpoints/best.keras`, `tensorboard/` and `report.html`. Model and table are written after each epoch. Ctrl-C
    saves what there is and raises `KeyboardInterrupt`.

    Args:
        config: a recipe of `resnet_keras.config`, changed with `dataclasses.replace`.
        quiet: without the progress on standard error.

    On CPU, one seed gives one result to the last bit where TensorFlow runs one op at a time, as the program sets it:
    `tf.config.threading.set_inter_op_parallelism_threads(1)` before anything else.

    Raises:
        UsageError: (a ValueError) for data, a network, weights or a folder that cannot be used, before anything is
            written; and for a loss that is no longer a number.
    """
    _check_model_options(config)
    own_file = not config.weights or is_own_file(config.weights)
    start = None if own_file else _starting_weights(config)
    source = open_source(config.data, config.data_dir)
    shape = picture_format_for(config, source, start)
    steps = steps_per_epoch(source.train, config.batch_size)
    strategy = make_strategy(config.strategy)
    if config.batch_size % strategy.num_replicas_in_sync:
        raise UsageError(f"batch_size {config.batch_size} cannot be divided over {describe(strategy)}")
    network, trained = build_for_training(config, source, shape, strategy, steps * config.epochs, start)

    batches = training_batches(
        source,
        shape,
        config.augmentation,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        label_smoothing=config.label_smoothing,
    )
    test_batches = evaluation_batches(source, shape, config.batch_size)
    evaluator = Evaluator(network, source.labels, strategy)

    folder = new_run_folder(config.run_dir, config.name)
    config = dataclasses.replace(config, run_dir=str(folder))
    with writing_to(folder):
        write_text(folder / CONFIG, config.to_json() + "\n")
        writer = RunWriter(folder, network, lambda: evaluator(test_batches))
        callbacks = [writer, keras.callbacks.TensorBoard(folder / LOGS, write_graph=False)]
        if not quiet:
            callbacks.append(Progress(config.epochs, steps, config.batch_size))
            opening = _opening(config, network, source, describe(strategy), trained.jit_compile)
            print(opening, file=sys.stderr, flush=True)
        started, interrupted = time.perf_counter(), False
        try:
            # The batches are in their order already.
            options = {"epochs": config.epochs, "steps_per_epoch": steps, "shuffle": False, "verbose": 0}
            trained.fit(batches, callbacks=callbacks, **options)
        except KeyboardInterrupt:
            interrupted = True
            print(f"\ninterrupted: saving {folder}", file=sys.stderr, flush=True)
        seconds = time.perf_counter() - started
        result = writer.tested if writer.tested and not interrupted else evaluator(test_batches)
        metrics = {
            **result.metrics,
            "epochs": len(writer.rows),
            "interrupted": interrupted,
            "seconds": seconds,
            "environment": environment(strategy, trained.jit_compile),
        }
        _finish(folder, network, config, result, metrics, writer.rows)
    if interrupted:
        raise KeyboardInterrupt(f"the run is saved in {folder}")
    return TrainResult(network, metrics, folder)


def build_for_training(
    config: TrainConfig,
    source: Source,
    shape: PictureFormat,
    strategy: tf.distribute.Strategy,
    total_steps: int,
    start: Weights | None = None,
) -> tuple[keras.Model, keras.Model]:
    """The network of a config, from raw pixels to probabilities, and the compiled view of it that ends in logits."""
    xla = use_xla(config, strategy)
    keras.utils.set_random_seed(config.seed)
    with _precision(config.precision), strategy.scope():
        network = _network(config, source, shape, start)
        # Trained on logits, for the loss is exact there; saved with the softmax.
        trained = keras.Model(network.input, network.get_layer("logits").output, name=network.name)
        trained.compile(
            make_optimizer(config.optimizer, config.schedule, total_steps),
            keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
            jit_compile=xla,
        )
    return network, trained


def environment(strategy: tf.distribute.Strategy, xla: bool) -> dict[str, str]:
    """Where a figure was measured: devices, versions."""
    return {
        "devices": describe(strategy),
        "xla": "on" if xla else "off",
        "machine": f"{platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def picture_format_for(config: TrainConfig, source: Source, start: Weights | None = None) -> PictureFormat:
    """The pictures of a run; normalised as the model it starts from was, else as the data are, else as ImageNet."""
    if config.image_size:
        size = (config.image_size, config.image_size)
    elif source.image_size:
        size = source.image_size
    else:
        raise UsageError(f"the pictures of {config.data} have no common size; give --image-size")
    card = ModelCard(
        crop=config.eval_crop,
        labels=source.labels,
        network=config.model,
        data=config.data,
        recipe=config.name,
    )
    if start is not None and start.card and start.card.fits(source.channels):
        known = start.card
        kept = ("mean", "std", "channels", "interpolation", "source", "license")
        card = dataclasses.replace(card, **{name: getattr(known, name) for name in kept})
    elif measured := statistics(source.train, source.channels):
        card = dataclasses.replace(card, mean=measured[0], std=measured[1])
    return PictureFormat(size, source.channels, card)


def _starting_weights(config: TrainConfig) -> Weights:
    spec: Any = named(config.model).spec
    if config.weights == "imagenet":
        return find_weights(hub_name(dataclasses.replace(spec, **config.model_options), config.model))
    return find_weights(config.weights)


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    """Keras's global policy, for the length of a `with`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _check_model_options(config: TrainConfig) -> None:
    fields = [field.name for field in dataclasses.fields(named(config.model).spec)]
    for option in config.model_options:
        if option not in fields:
            raise unknown("field of --model-options", option, fields)


def _network(config: TrainConfig, source: Source, shape: PictureFormat, start: Weights | None) -> keras.Model:
    options: dict[str, Any] = dict(config.model_options)
    spec = named(config.model).spec
    if isinstance(spec, ResNetSpec):
        shortcut = options.get("shortcut", spec.shortcut)
        options.setdefault("zero_init_gamma", config.zero_init_gamma and shortcut != "none")
    network = create_model(
        config.model,
        classes=len(source.labels),
        input_shape=(*shape.size, shape.channels),
        include_preprocessing=shape.card,
        **options,
    )
    if start is not None:  # a head of other classes starts anew
        assign(Network(network), start, skip_head=classes_of(start) != len(source.labels))
    elif config.weights:
        load_weights(network, config.weights, skip_head=True)
    if config.freeze is not None:
        freeze(network, config.freeze)
        if not network.trainable_weights:
            raise UsageError(f"with freeze={config.freeze} nothing is left to learn; freeze less")
    return network


def _opening(config: TrainConfig, network: keras.Model, source: Source, devices: str, xla: bool) -> str:
    cost = complexity(network)
    return (
        f"{network.name}: {cost.trainable_parameters:,} parameters, {cost.macs / 1e6:,.1f} M multiply-adds a picture\n"
        f"{source.name}: {len(source.train):,} training and {len(source.test):,} test pictures, "
        f"{len(source.labels)} classes\n"
        f"{config.epochs} epochs in batches of {config.batch_size}; {devices}, {config.precision}, "
        f"XLA {'on' if xla else 'off'}; run folder {config.run_dir}"
    )


def _finish(
    folder: Path,
    network: keras.Model,
    config: TrainConfig,
    result: Evaluation,
    metrics: dict[str, Any],
    rows: list[dict[str, Any]],
) -> None:
    layer = card_layer(network)
    assert layer is not None
    layer.card = dataclasses.replace(layer.card, metrics=result.metrics)
    save_model(network, folder / MODEL)
    write_text(folder / METRICS, json_text(metrics) + "\n")
    write_report(folder, config, result, metrics, rows)
