"""Search spaces: functions from hyperparameters to a config.

A space of your own is such a function, named `space`, in a file: `resnet-keras tune path/to/file.py`. It starts from a
recipe and changes it with `dataclasses.replace`; choices that depend on another one stand in
`hp.conditional_scope`.
"""

import dataclasses
import importlib.util
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras_tuner

from resnet_keras.config.recipes import recipe
from resnet_keras.config.train import Augmentation, Schedule, TrainConfig
from resnet_keras.errors import UsageError, reason, unknown

Space = Callable[[keras_tuner.HyperParameters], TrainConfig]


def digits(hp: keras_tuner.HyperParameters) -> TrainConfig:
    """Small CIFAR nets on the embedded digits, 8x8: depth, width, kind of block, and how they are trained."""
    config = dataclasses.replace(recipe("digits"), model_options=cifar_network(hp, depths=(1, 2, 3), width=16))
    config = optimisation(hp, config, rates=(0.02, 0.5), batches=(32, 64, 128))
    pad = hp.Int("pad", 0, 2, default=1)
    augmentation = Augmentation(crop="pad", pad=pad) if pad else Augmentation()
    return dataclasses.replace(config, augmentation=augmentation)


def cifar10(hp: keras_tuner.HyperParameters) -> TrainConfig:
    """CIFAR nets at a budget of a few epochs, from the recipe cifar10-fast."""
    config = recipe("cifar10-fast")
    config = dataclasses.replace(config, test_every=1, train_sizes=(), **_pooled(hp))
    config = optimisation(hp, config, rates=(0.05, 1.0), batches=(128, 256, 512))
    crop = Augmentation(crop="pad", pad=hp.Int("pad", 1, 4, default=2), flip=True)
    return dataclasses.replace(config, augmentation=policy(hp, crop))


def folder(hp: keras_tuner.HyperParameters) -> TrainConfig:
    """A folder of images (--data FOLDER): which ResNet, at which size, and how it is trained, from scratch."""
    model = hp.Choice("model", ["resnet18", "resnet34", "resnet50", "resnet50d", "seresnet50"], default="resnet18")
    options: dict[str, Any] = {"stochastic_depth": hp.Float("stochastic_depth", 0.0, 0.2, step=0.05)}
    size = hp.Choice("image_size", [96, 128, 160, 224], default=128)
    config = dataclasses.replace(recipe("finetune"), model=model, model_options=options, image_size=size)
    config = dataclasses.replace(config, epochs=10, weights=None, freeze=None, unfreeze={}, freeze_norms=False)
    config = optimisation(hp, config, rates=(0.01, 0.5), batches=(32, 64))
    crop = Augmentation(crop="resized", min_area=hp.Float("min_area", 0.08, 0.6, step=0.04, default=0.32), flip=True)
    return dataclasses.replace(config, augmentation=policy(hp, crop))


def imagenet(hp: keras_tuner.HyperParameters) -> TrainConfig:
    """ResNet-50 and its kin on ImageNet, from the recipe imagenet-a3. Wants GPUs, and days."""
    model = hp.Choice("model", ["resnet50", "resnet50d", "seresnet50", "resnext50_32x4d", "resnet50_v2"])
    options: dict[str, Any] = {"stochastic_depth": hp.Float("stochastic_depth", 0.0, 0.1, step=0.05)}
    config = dataclasses.replace(recipe("imagenet-a3"), model=model, model_options=options)
    size = hp.Choice("train_size", [128, 160, 192], default=160)
    config = dataclasses.replace(config, train_sizes=(size,))
    config = optimisation(hp, config, rates=(0.1, 4.0), batches=(512, 1024, 2048))
    crop = Augmentation(crop="resized", min_area=hp.Float("min_area", 0.08, 0.4, step=0.08), flip=True)
    return dataclasses.replace(config, augmentation=policy(hp, crop))


SPACES: dict[str, Space] = {"digits": digits, "cifar10": cifar10, "folder": folder, "imagenet": imagenet}


def cifar_network(hp: keras_tuner.HyperParameters, *, depths: tuple[int, ...], width: int) -> dict[str, Any]:
    """Options of a CIFAR net: blocks a stage, width, kind of block, shortcut, squeeze-and-excitation."""
    blocks = hp.Choice("blocks", list(depths), default=depths[-1])
    widening = hp.Choice("widening", [1, 2, 4], default=1)
    widths = ",".join(str(width * widening * 2**stage) for stage in range(3))
    options: dict[str, Any] = {"blocks": f"{blocks},{blocks},{blocks}", "widths": widths}
    preactivation = hp.Choice("block", ["post-activation", "pre-activation"]) == "pre-activation"
    if preactivation:
        options |= {"preactivation": True, "shortcut": "B"}
    with hp.conditional_scope("block", "post-activation"):
        shortcut = hp.Choice("shortcut", ["A", "B", "D"])
        if not preactivation:
            options["shortcut"] = shortcut
    squeeze = hp.Boolean("squeeze_excitation")
    with hp.conditional_scope("squeeze_excitation", True):
        ratio = hp.Choice("se_ratio", [0.0625, 0.125, 0.25])
        if squeeze:
            options["se_ratio"] = ratio
    options["stochastic_depth"] = hp.Float("stochastic_depth", 0.0, 0.2, step=0.05)
    return options


def _pooled(hp: keras_tuner.HyperParameters) -> dict[str, Any]:
    """The net of cifar10-fast, whose stem pools, with other depths and widths; or a ResNet-20 without the pool."""
    pooled = hp.Choice("stem", ["pooled", "plain"], default="pooled") == "pooled"
    options: dict[str, Any] = {"stochastic_depth": hp.Float("stochastic_depth", 0.0, 0.1, step=0.05)}
    with hp.conditional_scope("stem", "pooled"):
        blocks = hp.Int("blocks", 1, 2)
        width = hp.Choice("width", [32, 64, 96], default=64)
        if pooled:
            widths = f"{width},{2 * width},{4 * width}"
            own = {"blocks": f"{blocks},{blocks},{blocks}", "widths": widths}
            return {"model": "cifar_resnet8_4", "model_options": {**own, **options}}
    return {"model": "cifar_resnet20", "model_options": options}


def optimisation(
    hp: keras_tuner.HyperParameters, config: TrainConfig, *, rates: tuple[float, float], batches: tuple[int, ...]
) -> TrainConfig:
    """A config with another rate (for the recipe's own batch size; it grows with the batch), decay and schedule."""
    batch = hp.Choice("batch_size", list(batches), default=config.batch_size if config.batch_size in batches else None)
    rate = hp.Float("learning_rate", *rates, sampling="log") * batch / config.batch_size
    decay = hp.Float("weight_decay", 1e-5, 5e-3, sampling="log")
    kind = hp.Choice("decay", ["cosine", "linear", "step"])
    warmup = hp.Float("warmup", 0.05, 0.4, step=0.05)
    schedule = Schedule(decay=kind, warmup=warmup, milestones=(max(0.5, warmup + 0.05), 0.75))
    averaged = hp.Boolean("average_weights")
    ema = 0.0
    with hp.conditional_scope("average_weights", True):
        chosen = hp.Choice("ema", [0.98, 0.99, 0.998])
        if averaged:
            ema = chosen
    return dataclasses.replace(
        config,
        batch_size=batch,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=rate, weight_decay=decay),
        schedule=schedule,
        label_smoothing=0.0 if config.loss == "sigmoid" else hp.Float("label_smoothing", 0.0, 0.2, step=0.05),
        ema=ema,
        zero_init_gamma=hp.Boolean("zero_init_gamma", default=True),
    )


def policy(hp: keras_tuner.HyperParameters, crop: Augmentation) -> Augmentation:
    """A crop with more augmentation on top: none, TrivialAugment or RandAugment; MixUp; erasing."""
    kind = hp.Choice("policy", ["none", "trivialaugment", "randaugment"])
    magnitude = crop.magnitude
    with hp.conditional_scope("policy", "randaugment"):
        chosen = hp.Int("magnitude", 3, 9, step=2)
        if kind == "randaugment":
            magnitude = float(chosen)
    return dataclasses.replace(
        crop,
        policy=kind,
        magnitude=magnitude,
        mixup=hp.Choice("mixup", [0.0, 0.1, 0.2]),
        erasing=hp.Choice("erasing", [0.0, 0.1, 0.25]),
    )


def find_space(given: str) -> tuple[str, Space]:
    """The name and the function of a space: one of ours, or `space` in a file.

    Raises:
        UsageError: no such space; or the file's error, with its line.
    """
    if given in SPACES:
        return given, SPACES[given]
    path = Path(given).expanduser()
    if path.suffix != ".py":
        raise unknown("space", given, SPACES, "or give a file that ends in .py")
    if not path.is_file():
        raise UsageError(f"there is no space file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{where(path, error)}: {type(error).__name__}: {reason(error)}") from error
    space = getattr(module, "space", None)
    if not inspect.isfunction(space):
        raise UsageError(f"{path} has no function space(hp) that returns a TrainConfig")
    return path.stem, space


def draw(space: Space, hp: keras_tuner.HyperParameters) -> TrainConfig:
    """A config of a space. Raises `UsageError`, with file and line, for what the space's function does wrong."""
    try:
        config = space(hp)
    except Exception as error:
        path = Path(inspect.getsourcefile(space) or "the space")
        raise UsageError(f"{where(path, error)}: {type(error).__name__}: {reason(error)}") from error
    if not isinstance(config, TrainConfig):
        path = Path(inspect.getsourcefile(space) or "the space")
        line = inspect.getsourcelines(space)[1]
        raise UsageError(f"{path}:{line}: {space.__name__}(hp) must return a TrainConfig, not {config!r:.80}")
    return config


def where(path: Path, error: BaseException) -> str:
    """The file and the last line of it that an error went through."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"{path}:{lines[-1]}" if lines else str(path)
