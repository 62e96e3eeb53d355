"""The setup of a run: its data, its network, and the step that trains it."""

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from resnet_keras.config.train import AUTO, GIVEN, TrainConfig
from resnet_keras.data.format import ImageFormat
from resnet_keras.data.given import source_of as given_source
from resnet_keras.data.identity import identity_of
from resnet_keras.data.pipeline import check_augmentation, steps_per_epoch
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import (
    VALIDATION_SHARE,
    ArraySplit,
    DatasetSplit,
    FileSplit,
    Source,
    Split,
    channel_statistics,
    hold_out,
)
from resnet_keras.data.targets import counts_of
from resnet_keras.errors import UsageError, unknown
from resnet_keras.inference.labels import DEFAULT_THRESHOLD
from resnet_keras.models.around import classifier_around
from resnet_keras.models.builder import dtype_policy
from resnet_keras.models.card import ModelCard
from resnet_keras.models.complexity import create_model
from resnet_keras.models.layers import Recomputable
from resnet_keras.models.preprocessing import model_card
from resnet_keras.models.registry import hub_name, named
from resnet_keras.models.spec import ResNetSpec
from resnet_keras.models.temperature import dense_head, scale_logits
from resnet_keras.models.weights.loading import assign, classes_of, find_weights, is_own_file, load_weights
from resnet_keras.models.weights.reading import Weights
from resnet_keras.models.weights.weight_layers import WeightLayers
from resnet_keras.progress import progress
from resnet_keras.training.devices import host_of, use_xla
from resnet_keras.training.distillation import Teacher, check_teacher, open_teacher
from resnet_keras.training.given import Given, Judge, check_augmentable
from resnet_keras.training.input import check_batch, class_weights_of, steps_of
from resnet_keras.training.phases import Phase, phases_of, set_trainable
from resnet_keras.training.plan import plan
from resnet_keras.training.quantization import Quantization, check_quantize, quantization_of
from resnet_keras.training.state import TrainingState
from resnet_keras.training.step import Step


def _check_model_options(config: TrainConfig) -> None:
    """Raise `UsageError` for an unknown model, or an option that is no field of its spec."""
    if config.model == GIVEN:
        raise UsageError("the run trains a model that was given in Python; resume it by train(config, model=...)")
    fields = [field.name for field in dataclasses.fields(named(config.model).spec)]
    for option in config.model_options:
        if option not in fields:
            raise unknown("field of --model-options", option, fields)


def _starting_weights(config: TrainConfig) -> Weights | None:
    """The published or converted weights that a config starts from; None if there are none, or for our own file."""
    _check_model_options(config)
    if not config.weights or is_own_file(config.weights):
        return None
    spec: Any = named(config.model).spec
    if config.weights == "imagenet":
        return find_weights(hub_name(dataclasses.replace(spec, **config.model_options), config.model))
    return find_weights(config.weights)


def source_of(config: TrainConfig, data: Any = None, classes: int | None = None) -> Source:
    """The data of a config, with the validation split that it calls for.

    `data` is what was given in its place, for so many classes.
    """
    if config.data != GIVEN:
        source = open_source(config.data, config.data_dir, skip_damaged=config.skip_damaged)
    elif data is None:
        raise UsageError("the run trains on data that was given in Python; resume it by train(config, data=...)")
    else:
        source = given_source(data, classes)
        check_augmentable(config, source)
    return _validated(source, config)


def _holds_out_by_default(split: Split) -> bool:
    return isinstance(split, FileSplit) and max(counts_of(split.targets, 1)) > 1


def _validated(source: Source, config: TrainConfig) -> Source:
    """A source with the validation split of a config: the source's own, or held out of the training images."""
    if config.validation == 0:
        return dataclasses.replace(source, validation=None)
    if source.validation is None and (config.validation or _holds_out_by_default(source.train)):
        source = hold_out(source, config.validation or VALIDATION_SHARE)
    if source.validation is None and (config.patience or config.calibrate or not config.final_test):
        field = "patience" if config.patience else "calibrate" if config.calibrate else "final_test"
        raise UsageError(f"{field} needs validation images, and {source.name} has none; give --validation 0.1")
    return source


def image_format_for(
    config: TrainConfig, source: Source, start: Weights | None = None, model: keras.Model | None = None
) -> ImageFormat:
    """The images of a run, normalised as the model it starts from was, or by their own mean and std, or as ImageNet.

    `model` is what was given in place of the config's.
    """
    if model is not None:
        size = model.input_shape[1:3]
    elif config.image_size:
        size = (config.image_size, config.image_size)
    elif source.image_size:
        size = source.image_size
    else:
        raise UsageError(f"the images of {config.data} have no common size; give --image-size")
    card = ModelCard(
        crop=config.eval_crop,
        interpolation=config.interpolation,
        labels=source.labels,
        network=config.model if model is None else model.name,
        data=config.data if config.data != GIVEN else "",
        recipe=config.name,
        test_flip=config.test_flip,
        thresholds=(DEFAULT_THRESHOLD,) * len(source.labels) if source.several else (),
    )
    if start is not None and start.card and start.card.fits(source.channels):
        known = start.card
        kept = ("mean", "std", "channels", "interpolation", "source", "license")
        card = dataclasses.replace(card, **{name: getattr(known, name) for name in kept})
    elif measured := channel_statistics(source.train, source.channels):
        card = dataclasses.replace(card, mean=measured[0], std=measured[1])
    elif not card.fits(source.channels):
        card = dataclasses.replace(card, mean=(0.5,), std=(0.25,))
    return ImageFormat(size, source.channels, card)


@dataclass(frozen=True)
class TrainingSetup:
    """The parts of a run, before anything is written."""

    config: TrainConfig
    strategy: tf.distribute.Strategy
    source: Source
    shape: ImageFormat
    network: keras.Model
    """From raw pixels to probabilities."""
    trained: keras.Model
    """The same network up to its logits, for which the loss is exact; in int8 with `quantize`."""
    state: TrainingState
    step: Step
    steps_per_epoch: int
    judge: Judge | None = None
    """A loss and metrics of the user's own."""
    reasons: tuple[str, ...] = ()
    """What the run has chosen for itself, and why, and who teaches it: a line each."""
    teacher: Teacher | None = None
    quantization: Quantization | None = None

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.epochs

    @property
    def measured(self) -> keras.Model:
        """What is measured on test images: the network, or that in int8, with its logits behind it for a judge."""
        network = self.quantization.in_int8(self.network) if self.quantization else self.network
        if self.judge is None:
            return network
        both = keras.layers.Concatenate(dtype="float32")([network.output, self.trained.output])
        return keras.Model(self.network.input, both, name=self.network.name)

    @functools.cached_property
    def data(self) -> dict[str, Any]:
        """What says whether the data have changed."""
        return identity_of(self.source)

    def shape_in(self, phase: Phase) -> ImageFormat:
        """The training images of a phase."""
        size = (phase.size, phase.size) if phase.size else self.shape.size
        return dataclasses.replace(self.shape, size=size)

    def batches(self, phase: Phase, first: int, last: int) -> Iterator[Any]:
        """The batches of steps `first` to `last` (exclusive), in a phase's size."""
        return steps_of(self.config, self.source, self.shape_in(phase), self.strategy, first, last)


def make_setup(
    config: TrainConfig,
    strategy: tf.distribute.Strategy,
    given: Given | None = None,
    source: Source | None = None,
) -> TrainingSetup:
    """Open the data and build the network of a config. Raises `UsageError` for a config that cannot be trained.

    What is `given` takes the place of the config's; `source` are its data where they are open already.
    """
    given = given or Given()
    named_weights, start = given.model is None and AUTO not in (config.model, config.weights), None
    if named_weights:  # what can be wrong with them is said before the data are read
        start = _starting_weights(config)
    if config.teacher is not None:
        check_teacher(config.teacher)
    check_batch(config, strategy)
    if config.weights != AUTO:
        check_quantize(config, strategy, given.model is not None)
    if (given.loss or given.metrics) and host_of(strategy)[1] > 1:
        raise UsageError("a loss or metrics of your own are measured on one host; leave them to the config on several")
    if config.calibrate and host_of(strategy)[1] > 1:
        raise UsageError("calibrate is for one host; train without it on several")
    xla = use_xla(config, strategy)
    source = source or source_of(config, given.data, given.model and _classes_of(given.model))
    if source.several:
        _check_several(config, source, given, strategy)
    planned = plan(config, source)
    config = planned.config
    check_quantize(config, strategy, given.model is not None)
    if given.model is None and not named_weights:
        start = _starting_weights(config)
    shape = image_format_for(config, source, start, given.model)
    steps = steps_per_epoch(source.train, config.batch_size)
    class_weights = class_weights_of(config, source)
    keras.utils.set_random_seed(config.seed)
    ends_in_logits = False
    with progress(f"building {config.model}"), dtype_policy(config.precision), strategy.scope():
        if given.model is None:
            network = network_of(config, source, shape, start)
        else:
            _check_fits(given.model, source)
            temperature = model_card(given.model).temperature
            classifier = classifier_around(given.model, shape.card)
            network, ends_in_logits = classifier.network, classifier.ends_in_logits
            if temperature:  # the new card has none
                scale_logits(network, temperature)
        if config.calibrate:
            dense_head(network)
        trained = keras.Model(network.input, network.get_layer("logits").output, name=network.name)
        judge = Judge(given.loss, given.metrics, ends_in_logits) if given.loss or given.metrics else None
    quantization = quantization_of(config, source, shape, network)
    if quantization:
        trained = quantization.in_int8(trained)
    phases = phases_of(config)
    for phase in phases:
        set_trainable(network, config, phase)
    trainable = {variable.path for variable in network.trainable_variables}  # the last phase has them all
    total = steps * config.epochs
    state = TrainingState(
        network,
        config,
        strategy,
        total,
        trainable=trainable,
        optimizer=given.optimizer,
        by_place=given.model is not None,
    )
    loss = judge.losses if judge and judge.has_loss else None
    with strategy.scope():
        # After the network, whose random weights are then those of a run without.
        teacher = open_teacher(config, source)
    several = source.several
    step = Step(
        trained, state, config, xla=xla, class_weights=class_weights, several=several, loss=loss, teacher=teacher
    )
    parts = (config, strategy, source, shape, network, trained, state, step, steps, judge)
    reasons = (*planned.reasons, *([teacher.words(config, shape.size)] if teacher else []))
    reasons += (quantization.words(),) if quantization else ()
    setup = TrainingSetup(*parts, reasons=reasons, teacher=teacher, quantization=quantization)
    for phase in phases:
        check_augmentation(config.augmentation, setup.shape_in(phase), config.batch_size // host_of(strategy)[1])
    return setup


def _check_several(config: TrainConfig, source: Source, given: Given, strategy: tf.distribute.Strategy) -> None:
    """Raise `UsageError` for what a run of several labels an image cannot do."""
    if host_of(strategy)[1] > 1:
        raise UsageError(f"{source.name} has several labels an image, which are measured on one host; train on one")
    wrong = {
        "label_smoothing": config.label_smoothing,
        "class_weights": config.class_weights != "none",
        "calibrate": config.calibrate,
        "target_threshold": config.target_threshold,
        "teacher": config.teacher is not None,
        "loss": given.loss,
        "metrics": given.metrics,
    }
    if name := next((name for name, value in wrong.items() if value), None):
        raise UsageError(f"{name} is for one label an image, and {source.name} has several; leave it out")
    for where, split in (("training", source.train), ("validation", source.validation), ("test", source.test)):
        if isinstance(split, ArraySplit | FileSplit) and not split.targets.any():
            raise UsageError(f"no {where} image of {source.name} has a label")


def _classes_of(model: keras.Model) -> int | None:
    shape = getattr(model, "output_shape", None)
    return shape[-1] if isinstance(shape, tuple) else None


def _check_fits(model: keras.Model, source: Source) -> None:
    """Raise `UsageError` where a model cannot take the images of a source, or has not its classes."""
    if (channels := model.input_shape[-1]) != source.channels:
        raise UsageError(f"{model.name} takes {channels} channels, {source.name} has {source.channels}")
    if (classes := model.output_shape[-1]) != len(source.labels):
        raise UsageError(f"{model.name} has {classes} classes, {source.name} has {len(source.labels)}")
    if isinstance(source.train, DatasetSplit) and (size := model.input_shape[1:3]) != source.image_size:
        raise UsageError(
            f"{model.name} takes images of {size}, {source.name} has {source.image_size}; resize them in it"
        )


def network_of(config: TrainConfig, source: Source, shape: ImageFormat, start: Weights | None = None) -> keras.Model:
    """The network that a config trains on images of a format, from raw pixels to probabilities.

    `start` are published or converted weights to begin with.
    """
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
        classifier_activation="sigmoid" if source.several else "softmax",
        **options,
    )
    if start is not None:  # a head of other classes starts anew
        new_head = classes_of(start) != len(source.labels)
        assign(WeightLayers(network), start, skip_head=new_head)
        if start.card and start.card.temperature and not new_head:  # the new card has none
            scale_logits(network, start.card.temperature)
    elif config.weights:
        load_weights(network, config.weights, skip_head=True)
    for layer in network.layers:
        if isinstance(layer, Recomputable):
            layer.rematerialize = config.rematerialize
    return network
