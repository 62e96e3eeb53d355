"""`train(config)`: the setup, the loop, and the run folder with the results."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from resnet_keras.config.run_folder import (
    BEST,
    CONFIG,
    METRICS,
    MODEL,
    check_run_folder,
    new_folder_name,
    run_config,
    run_folder,
)
from resnet_keras.config.train import TrainConfig
from resnet_keras.data.pipeline import evaluation_batches
from resnet_keras.errors import UsageError
from resnet_keras.files import json_text, read_json, write_text, writing_to
from resnet_keras.inference.evaluate import Evaluator
from resnet_keras.models.complexity import complexity, learned_parameters
from resnet_keras.models.preprocessing import card_layer, model_card
from resnet_keras.models.saved import load_model, save_model, with_optimizer
from resnet_keras.progress import say as print_line
from resnet_keras.remote.stores import is_remote
from resnet_keras.remote.working_copy import WorkingCopy, push_or_warn, working_copy
from resnet_keras.training.batch_stats import recompute_batch_stats
from resnet_keras.training.calibrate import calibrate, calibration_of, calibration_words
from resnet_keras.training.callbacks import MakeCallback
from resnet_keras.training.described import environment, opening
from resnet_keras.training.devices import describe, host_of, make_strategy, refusals_told, tasks_of
from resnet_keras.training.estimate import estimate, within_budget
from resnet_keras.training.given import Given
from resnet_keras.training.loop import Interrupted, Loop
from resnet_keras.training.lost import host_lost
from resnet_keras.training.plan import as_begun
from resnet_keras.training.record import Record, best_epoch
from resnet_keras.training.reporters import all_reporters
from resnet_keras.training.setup import TrainingSetup, make_setup, source_of
from resnet_keras.training.thresholds import choose_thresholds

LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)
"""What TensorFlow raises when a host no longer answers."""


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Examples:
        >>> result = rk.train(dataclasses.replace(rk.RECIPES["digits"](), epochs=1), quiet=True)
        >>> result.metrics["split"], result.metrics["examples"]
        ('test', 360)
    """

    model: keras.Model
    """From raw pixels, 0 to 255, to probabilities."""
    metrics: dict[str, Any]
    """`loss`, `accuracy`, `top5_accuracy`, `examples` and `ece`, the expected calibration error, on the `split` that it
    names: test, or validation without `final_test`; `epochs`, `interrupted`, `seconds`, `date` (local time of the end),
    `parameters` (without BN statistics) and `environment`. With validation images `best_epoch`, whose network the
    result is, and its figures on them as `validation`. With `calibrate`, `calibration`: the `temperature` (None where
    all validation images are correct), the `images` it is from, and on `split` `loss_before`, `ece_before` and `ece`.
    With a `teacher` its `model`, as the config names it, and the `digest` of its weights. With `quantize` all figures
    are of the network in int8, and `quantization` has its `dtype`, the `share_of_macs` in it, and how many `images`
    and which `percentile` of their maps the ranges are of.
    On several hosts there is no `ece`. Of several labels an image there is `mean_average_precision` in place of
    `top5_accuracy` and `ece`."""
    run_dir: Path
    """The run folder; of a remote one, its copy on this machine."""


def train(
    config: TrainConfig,
    *,
    model: keras.Model | None = None,
    data: Any = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    loss: Any = None,
    metrics: Sequence[Any] = (),
    callbacks: Sequence[keras.callbacks.Callback] = (),
    quiet: bool = False,
) -> TrainResult:
    """Train the network of a config, and write its run folder.

    The folder has `config.json`, `metrics.csv` (a row an epoch), `metrics.json`, `model.keras`, `checkpoints/`,
    `tensorboard/` and `report.html`. Model and table are written after each epoch. A run that was stopped, by whatever,
    resumes from its last checkpoint when it is started with the same config and `run_dir`, and ends as if it had never
    been stopped; a finished run is only read. A `run_dir` such as `s3://bucket/run` is written by way of a copy on this
    machine, whose state goes to the store with each checkpoint. Ctrl-C and SIGTERM write a checkpoint and raise
    `KeyboardInterrupt`.

    Args:
        config: a recipe, `rk.RECIPES[name]()`, changed with `dataclasses.replace`; or a `TrainConfig` of your own.
        model: in place of the config's, a classifier of Keras: functional or a `Sequential`, from images
            `[N, H, W, C]` to logits or probabilities `[N, classes]`. It is trained in place, on the devices of the
            strategy it was made under, in its own precision. The run puts a normalisation of pixels before a model that
            has no card: the result goes from pixels to probabilities.
        data: in place of the config's: `(train, test)` or `(train, validation, test)`, each `(images, labels)` as
            arrays, uint8 pixels, or a `tf.data.Dataset` of such pairs, which augments by itself. Arrays of labels
            `[N, labels]` with several ones in a row, or none, are of several labels an image. A name or a folder is as
            in the config.
        optimizer: any optimizer of Keras, in place of the config's and its schedule. Its variables are in the
            checkpoints. With several replicas, and where it is built already, the run takes a new one of its config.
        loss: of Keras, in place of the config's, on the model's own outputs; labels are one-hot, or numbers for a
            sparse loss. `val_loss` is by it too.
        metrics: of Keras, measured after each epoch on the validation images, or on the test images where there are
            none: `val_NAME` in the table and for callbacks.
        callbacks: of Keras, called as `fit` calls them, on all hosts. Checkpoints keep their attributes that are
            numbers, texts, lists, dicts or lists of arrays, so that a resumed run has them as they were.
            `model.stop_training` ends the run after the epoch.
        quiet: without the progress on standard error.

    On CPU, one seed gives one result to the last bit where TensorFlow runs one op at a time, as the program sets it:
    `tf.config.threading.set_inter_op_parallelism_threads(1)` before anything else.

    Raises:
        UsageError: (a ValueError) for data, a network, weights or a folder that cannot be used, before anything is
            written; and for a loss that is not a number.

    Examples:
        >>> config = dataclasses.replace(rk.RECIPES["digits"](), epochs=1)
        >>> result = rk.train(config, quiet=True)
        >>> sorted(path.name for path in result.run_dir.glob("*.json"))
        ['config.json', 'metrics.json']

        A model, arrays and an optimizer of one's own:

        >>> model = rk.build_cifar_resnet(8, input_shape=(8, 8, 1), classes=2)
        >>> images, labels = np.random.randint(0, 256, (64, 8, 8, 1), "uint8"), np.random.randint(0, 2, 64)
        >>> data = (images[:48], labels[:48]), (images[48:], labels[48:])
        >>> config = rk.TrainConfig(name="own", epochs=1, batch_size=16)
        >>> result = rk.train(config, model=model, data=data, optimizer=keras.optimizers.AdamW(1e-3), quiet=True)
    """
    given = Given(model, data, optimizer, loss, metrics)
    return run(config, quiet=quiet, reporters=all_reporters(quiet), given=given, callbacks=callbacks)


def run(
    config: TrainConfig,
    *,
    quiet: bool = True,
    reporters: Sequence[MakeCallback] = (),
    given: Given | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> TrainResult:
    """`train` with reporters of one's own.

    Without any, the run folder has `config.json`, `metrics.csv`, checkpoints and, at the end, `metrics.json` and
    `model.keras`.

    Args:
        config: as in `train`.
        quiet: without the lines about the run on standard error.
        reporters: make callbacks of the run, on the first host.
        given: what takes the place of the config's.
        callbacks: as in `train`.
    """
    given = given or Given()
    config = given.config(config)
    # Before anything else runs on TensorFlow.
    say = _say_nothing if quiet else print_line
    own = None if given.model is None else given.model.distribute_strategy
    strategy: Any = own or make_strategy(config.strategy, config, say)
    host, hosts = host_of(strategy)
    if hosts > 1 and not config.run_dir:
        raise UsageError("with several hosts, give --run-dir a folder that all of them see")
    say = say if host == 0 else _say_nothing
    if config.run_dir is None or not is_remote(config.run_dir):
        folder = Path(config.run_dir).expanduser() if config.run_dir else new_folder_name(config.name)
        return _run_in(
            folder, dataclasses.replace(config, run_dir=str(folder)), strategy, given, reporters, callbacks, say
        )
    if hosts > 1:
        raise UsageError(
            f"--run-dir {config.run_dir} is for one host; with several, give a folder that all of them see"
        )
    with working_copy(config.run_dir, print_line) as copy:
        return _run_in(copy.folder, config, strategy, given, reporters, callbacks, say, copy)


def _run_in(
    folder: Path,
    config: TrainConfig,
    strategy: Any,
    given: Given,
    reporters: Sequence[MakeCallback],
    callbacks: Sequence[keras.callbacks.Callback],
    say: Callable[[str], None],
    copy: WorkingCopy | None = None,
) -> TrainResult:
    """The run, in a folder of this machine; of a `copy` the store has the state of each checkpoint."""
    host, hosts = host_of(strategy)
    where = config.run_dir
    if begun := run_config(folder):
        config = as_begun(config, begun)
    resumes = check_run_folder(folder, config)
    if resumes and (done := _finished(folder, say)):
        say(f"{where} is finished; remove it, or give another --run-dir, to train anew")
        return done
    source, reasons = None, ()
    if config.budget:
        source = source_of(config, given.data)
        config, *reasons = within_budget(config, strategy, source)
    setup = make_setup(dataclasses.replace(config, run_dir=where), strategy, given, source)
    for reason_of_choice in (*setup.reasons, *reasons):
        say(reason_of_choice)
    record = Record(folder)
    with refusals_told(strategy), run_folder(folder) if host == 0 else contextlib.nullcontext(), writing_to(folder):
        if host == 0 and not resumes:
            write_text(folder / CONFIG, setup.config.to_json() + "\n")
        try:
            ours = [make(setup, record) for make in reporters] if host == 0 else []
            saved = (lambda: None) if copy is None else functools.partial(push_or_warn, copy, print_line)
            return _run(setup, record, say, [*ours, *callbacks], saved, resumes=resumes)
        except LOST as error:
            if hosts == 1:
                raise
            raise host_lost(error, *tasks_of(strategy), folder) from error


def dry_run(config: TrainConfig) -> dict[str, Any]:
    """What a run would be and take: its data, its network, and by some steps that are run, its time and memory.

    Nothing is written.

    Raises:
        UsageError: as `train` does, before its first step.
    """
    strategy: Any = make_strategy(config.strategy)
    source, reasons = source_of(config), []
    if config.budget:
        config, *reasons = within_budget(config, strategy, source)
    setup = make_setup(config, strategy, source=source)
    cost, found = complexity(setup.network), estimate(setup)
    return {
        "model": setup.config.model,
        "weights": setup.config.weights or "random",
        "image_size": list(setup.shape.size),
        "parameters": cost.trainable_parameters,
        "multiply_adds": cost.macs,
        "data": source.name,
        "classes": len(source.labels),
        "training_images": len(source.train),
        "validation_images": len(source.validation or ()),
        "test_images": len(source.test),
        "devices": describe(strategy),
        "epochs": setup.config.epochs,
        "steps_per_epoch": setup.steps_per_epoch,
        "batch_size": setup.config.batch_size,
        "images_per_second": round(setup.config.batch_size / found.step_seconds, 1),
        "minutes": round(found.run_seconds(setup) / 60, 2),
        "memory_gb": round(found.memory_bytes / 1e9, 2),
        "chosen": [*setup.reasons, *reasons],
    }


def _run(
    setup: TrainingSetup,
    record: Record,
    say: Callable[[str], None],
    callbacks: Sequence[keras.callbacks.Callback],
    saved: Callable[[], None],
    *,
    resumes: bool,
) -> TrainResult:
    config, state, network, folder = setup.config, setup.state, setup.network, record.folder
    host, hosts = host_of(setup.strategy)
    source = setup.source
    measured_batches = evaluation_batches(source, setup.shape, config.batch_size, source.measured)
    measured_images = len(source.measured)
    evaluator = Evaluator(
        setup.measured,
        setup.source.labels,
        setup.strategy,
        flip=config.test_flip,
        host=(host, hosts),
        judge=setup.judge,
        thresholds=model_card(network).thresholds,
    )
    loop = Loop(setup, record, lambda: evaluator(measured_batches, measured_images), callbacks, say, saved)
    say(opening(setup))
    if resumes and loop.restore():
        say(f"resuming after step {int(state.value_of(state.step)):,} of {setup.total_steps:,}")
    state.check_that_all_agree()
    started, interrupted = time.perf_counter(), False
    with with_optimizer(network, state.optimizer):
        try:
            loop.run()
            state.finish()
            chosen = _take_best(setup, record)
            if config.precise_bn:
                recompute_batch_stats(setup)
            loop.callbacks.on_train_end({})
            if chosen or config.precise_bn or loop.given:  # who may have put other weights there
                record.evaluation = None
        except Interrupted as stop:
            interrupted, record.evaluation = True, None
            for callback in loop.own:
                callback.on_interrupted()
            if hosts > 1 or not stop.by_hand:
                raise KeyboardInterrupt(_how_to_resume(config.run_dir)) from None
            say(f"\ninterrupted: saving {folder}")
            state.finish()
            _take_best(setup, record)
    tested = source.validation is None or config.final_test
    final_batches = evaluation_batches(source, setup.shape, config.batch_size) if tested else measured_batches
    final_images = len(source.test) if tested else measured_images
    temperature = None
    if config.calibrate and not interrupted:
        record.uncalibrated, record.evaluation = evaluator(final_batches, final_images), None
        temperature = calibrate(setup)
    record.evaluation = record.evaluation or evaluator(measured_batches, measured_images)
    if source.several and source.validation:
        record.evaluation = choose_thresholds(setup, record.evaluation)
        evaluator.thresholds = model_card(network).thresholds
    if source.validation and tested:
        record.validation, record.evaluation = record.evaluation, evaluator(final_batches, final_images)
    record.metrics = {
        **record.evaluation.metrics,
        **({} if record.evaluation.ece is None else {"ece": record.evaluation.ece}),
        "split": "test" if tested else "validation",
        **({"validation": record.validation.metrics} if record.validation else {}),
        **({"best_epoch": best_epoch(record.rows)} if record.validation and record.rows else {}),
        **({"calibration": calibration_of(setup, record, temperature)} if record.uncalibrated else {}),
        **({"teacher": setup.teacher.identity} if setup.teacher else {}),
        **({"quantization": setup.quantization.facts} if setup.quantization else {}),
        "epochs": len(record.rows),
        "interrupted": interrupted,
        "seconds": time.perf_counter() - started,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "parameters": learned_parameters(network),
        "environment": environment(setup),
    }
    if "calibration" in record.metrics:
        say(calibration_words(record.metrics))
    if host == 0:
        _finish(network, record)
        for callback in loop.own:
            callback.on_results()
    if interrupted:
        raise KeyboardInterrupt(_how_to_resume(config.run_dir))
    return TrainResult(network, record.metrics, folder)


def _take_best(setup: TrainingSetup, record: Record) -> bool:
    """Give the network the weights of the epoch that was best on validation images. Returns whether there was one."""
    if setup.source.validation is None or not setup.config.final_test or best_epoch(record.rows) is None:
        return False
    with with_optimizer(setup.network, None):  # whose state a file of weights would bring, too
        setup.network.load_weights(record.folder / BEST)
    return True


def _finished(folder: Path, say: Callable[[str], None]) -> TrainResult | None:
    """The result of a finished run; None if it is not finished, or does not say so any more."""
    path = folder / METRICS
    if not path.is_file():
        return None
    try:
        metrics = read_json(path, "the run resumes from its last checkpoint")
    except UsageError as error:
        say(str(error))
        return None
    return None if metrics.get("interrupted", True) else TrainResult(load_model(folder), metrics, folder)


def _say_nothing(line: str) -> None:
    pass


def _how_to_resume(folder: str | None) -> str:
    return f"the run is saved in {folder}; resnet-keras train {folder} resumes it"


def _finish(network: keras.Model, record: Record) -> None:
    layer = card_layer(network)
    assert layer is not None
    assert record.evaluation is not None
    if record.metrics["split"] == "test":
        layer.card = dataclasses.replace(layer.card, metrics=record.evaluation.metrics)
    save_model(network, record.folder / MODEL)
    write_text(record.folder / METRICS, json_text(record.metrics) + "\n")
