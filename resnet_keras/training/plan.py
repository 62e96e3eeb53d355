"""What a run chooses by its data, where its config leaves that open: network, weights, image size, epochs."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from resnet_keras.config.train import AUTO, GIVEN, TrainConfig
from resnet_keras.data.images import decode
from resnet_keras.data.splits import FileSplit, Source
from resnet_keras.errors import UsageError
from resnet_keras.models.preprocessing import model_card
from resnet_keras.models.registry import NAMES, named, packaged
from resnet_keras.models.saved import load_model

NETWORK, WEIGHTS = "cifar_resnet20", "cifar10-jpeg"
"""The starting network that comes with the package."""
LARGE_NETWORK = "resnet50"
"""For weights of ImageNet, where no network is named."""
SMALL_SIDES = (32, 48, 64, 96)
"""Image sizes of a network with a stem for small images."""
USUAL_SIDE = 64
RANDOM_SIDE = 128
"""Of a network for large images that starts from random weights."""
STEPS, LEAST_EPOCHS, MOST_EPOCHS = 700, 10, 60
"""A training of so many steps, within these epochs, where the config leaves the epochs open."""
FEW_IMAGES = 20_000
"""Training images below which a start from random weights is worth a word."""
SAMPLE = 100
"""Images whose sizes are read."""


@dataclass(frozen=True)
class Plan:
    """A config with nothing left open, and in a line each what was chosen and why."""

    config: TrainConfig
    reasons: tuple[str, ...] = ()


def plan(config: TrainConfig, source: Source) -> Plan:
    """Choose what a config leaves open.

    Raises:
        UsageError: weights that do not say which network they are of, or images without a common size for a run whose
            recipe does not choose one.
    """
    if config.model == GIVEN:
        return Plan(_with_epochs(dataclasses.replace(config, weights=None), source))
    chooses = AUTO in (config.model, config.weights)
    config, reasons = _with_network(config)
    own = isinstance(source.train, FileSplit)
    if config.image_size is None and source.image_size is None:
        if not chooses:
            raise UsageError(f"the images of {config.data} have no common size; give --image-size")
        side = usual_side(source)
        config = dataclasses.replace(config, image_size=sizes_for(config, side)[-1])
        reasons.append(f"images of {config.image_size}x{config.image_size} pixels: the shorter side is usually {side}")
    if source.several:
        reasons.append(
            "several labels an image: a sigmoid and binary cross-entropy for each; mean average precision chooses the "
            "epoch, and F1 the thresholds"
        )
    before, config = config.epochs, _with_epochs(config, source)
    if not before:
        reasons.append(f"{config.epochs} epochs, about {STEPS} steps where that is {LEAST_EPOCHS} to {MOST_EPOCHS}")
    if own and config.weights is None and len(source.train) < FEW_IMAGES:
        reasons.append(
            f"starts from random weights, for which {len(source.train):,} images are few; better: --model {NETWORK} "
            f"--weights {WEIGHTS}, which comes with the package, or --weights imagenet, which is downloaded"
        )
    return Plan(config, tuple(reasons))


def as_begun(config: TrainConfig, begun: TrainConfig) -> TrainConfig:
    """A config in which what it leaves open is as the run of a folder chose it when it began."""
    chosen: dict[str, Any] = {name: getattr(begun, name) for name in ("model", "weights") if _is_auto(config, name)}
    if config.image_size is None and AUTO in (config.model, config.weights):
        chosen["image_size"] = begun.image_size
    if config.budget:
        chosen |= {"image_size": config.image_size or begun.image_size, "epochs": begun.epochs, "budget": None}
    if not config.epochs:
        chosen["epochs"] = begun.epochs
    return dataclasses.replace(config, **chosen)


def _is_auto(config: TrainConfig, name: str) -> bool:
    return getattr(config, name) == AUTO


def _with_network(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    model, weights, reasons = config.model, config.weights, []
    if weights == AUTO:
        weights = WEIGHTS if model in (AUTO, NETWORK) and not config.model_options else None
        if weights:
            reasons.append(
                f"starts from {WEIGHTS}, a ResNet-20 that comes with the package: no network is needed, and it trains "
                f"on a CPU; with a network and a GPU, --weights imagenet starts from a {LARGE_NETWORK}"
            )
    if model == AUTO:
        model = _network_of(weights)
        if weights not in (None, WEIGHTS):
            reasons.append(f"network {model}, which the weights are of")
    return dataclasses.replace(config, model=model, weights=weights), reasons


def _network_of(weights: str | None) -> str:
    """The name of the network that weights are of."""
    if weights is None:
        return NETWORK
    if weights == "imagenet":
        return LARGE_NETWORK
    path = Path(weights).expanduser()
    if packaged(weights) or path.is_dir() or path.suffix == ".keras":
        name = model_card(load_model(weights)).network
        if name in NAMES:
            return name
    raise UsageError(f"the weights {weights} do not say which network they are of; give --model")


def sizes_for(config: TrainConfig, side: int) -> list[int]:
    """The image sizes that suit a config's network, rising to the usual one, for images of a shorter side."""
    row = named(config.model)
    if getattr(row.spec, "stem", None) == "cifar":
        usual = [size for size in SMALL_SIDES if size <= min(side, USUAL_SIDE)]
        return usual or [min(SMALL_SIDES)]
    return [row.input_size if config.weights else RANDOM_SIDE]


def usual_side(source: Source) -> int:
    """The median of the shorter sides of some training images."""
    if not isinstance(source.train, FileSplit):
        return USUAL_SIDE
    paths = source.train.paths[:: max(1, len(source.train) // SAMPLE)]
    sides = [min(decode(tf.io.read_file(path), source.channels).numpy().shape[:2]) for path in paths]
    return int(np.median(sides))


def _with_epochs(config: TrainConfig, source: Source) -> TrainConfig:
    if config.epochs:
        return config
    steps = max(1, len(source.train) // config.batch_size)
    return dataclasses.replace(config, epochs=int(np.clip(round(STEPS / steps), LEAST_EPOCHS, MOST_EPOCHS)))
