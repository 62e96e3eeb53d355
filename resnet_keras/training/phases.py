"""The phases of a run: epochs with images of one size and one set of trainable layers."""

import itertools
from dataclasses import dataclass
from typing import Any

import keras

from resnet_keras.config.train import TrainConfig
from resnet_keras.errors import UsageError
from resnet_keras.models.features import freeze, freeze_norms, unfreeze


@dataclass(frozen=True)
class Phase:
    """Epochs `first` up to, and without, `last`, counted from 0."""

    first: int
    last: int
    size: int | None
    """Side of the training images; None for the network's own."""
    unfrozen: tuple[str, ...]
    """Parts that were frozen at first and are trainable now."""


def phases_of(config: TrainConfig) -> list[Phase]:
    """The phases of a run, in their order."""
    sizes = config.train_sizes
    turns = {i * config.epochs // len(sizes) for i in range(len(sizes))}
    starts = {part: min(round(start * config.epochs), config.epochs - 1) for part, start in config.unfreeze.items()}
    edges = sorted({0, config.epochs, *turns, *starts.values()})
    return [
        Phase(
            first,
            last,
            sizes[_place(first, config.epochs, len(sizes))] if sizes else None,
            tuple(part for part, start in starts.items() if start <= first),
        )
        for first, last in itertools.pairwise(edges)
    ]


def _place(epoch: int, epochs: int, count: int) -> int:
    return max(i for i in range(count) if i * epochs // count <= epoch)


def set_trainable(network: keras.Model, config: TrainConfig, phase: Phase) -> None:
    """Set which layers of a network are trainable in a phase.

    Raises:
        UsageError: the network does not have a part, or nothing is trainable.
    """
    if config.freeze is not None:
        unfreeze(network, norms=True)
        freeze(network, config.freeze)
        for part in phase.unfrozen:
            # With its norms: by fixed batch_stats it would need a hundredth of the rate (docs/results/finetune.md).
            unfreeze(network, part, norms=True)
    if config.freeze_norms:
        freeze_norms(network)
    if not network.trainable_weights:
        raise UsageError(f"with freeze={config.freeze} nothing is trainable; freeze less")


def view_of_size(network: keras.Model, size: int | None) -> keras.Model:
    """The same layers on images of another size."""
    own = network.input_shape[1:]
    if size is None or (size, size) == tuple(own[:2]):
        return network
    images = keras.Input((size, size, own[2]), name="image")

    def itself(layer: Any) -> Any:
        return layer

    return keras.models.clone_model(network, input_tensors=images, clone_function=itself)
