"""What is published of a run or a model: read, freed of everything private, and written as files."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import keras

from resnet_keras.config.run_folder import CONFIG, METRICS, MODEL, PUBLISHED, run_config
from resnet_keras.config.train import GIVEN, TrainConfig
from resnet_keras.errors import UsageError, needs_extra
from resnet_keras.files import json_text, read_json, write_text
from resnet_keras.models.card import ModelCard
from resnet_keras.models.preprocessing import card_layer, model_card
from resnet_keras.models.registry import NAMES, PACKAGED
from resnet_keras.models.saved import classifier, load_model, save_model
from resnet_keras.models.weights.hub import TENSORS, is_hub_name
from resnet_keras.models.weights.weight_layers import HEAD, is_ours
from resnet_keras.publishing.config_file import config_file
from resnet_keras.publishing.tensors import Tensors, tensors_of

CARD = "README.md"
FILES = (CARD, CONFIG, TENSORS, MODEL)
"""All that is ever published."""


@dataclass(frozen=True)
class Publication:
    """A trained network, and what is known of its training. No path and no name of a user is in it."""

    model: keras.Model
    """With the card below, where it carries one."""
    card: ModelCard
    tensors: Tensors | None
    config: TrainConfig | None
    """Of the run; None for a model from elsewhere. Its `data` and `weights` are names without folders."""
    metrics: Mapping[str, Any]
    """Of the run's `metrics.json`, or of the model's card."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        height, width, channels = self.model.input_shape[1:]
        if height is None or width is None:
            row = NAMES.get(self.card.network)
            height, width = self.card.input_size or (row.input_size if row else 224,) * 2
        return int(height), int(width), int(channels)

    @property
    def classes(self) -> int:
        return int(self.model.output_shape[-1])

    @property
    def split(self) -> str:
        """Which images the metrics are of: test, or validation."""
        of_0_1 = "validation" if self.config and self.config.validation and not self.config.final_test else "test"
        return str(self.metrics.get("split", of_0_1))

    @property
    def interrupted(self) -> bool:
        """Whether the run was stopped before its last epoch, or has not ended yet."""
        return self.config is not None and bool(self.metrics.get("interrupted", True))

    @property
    def measured(self) -> dict[str, float]:
        """The metrics that are of images: loss, accuracy, and those of the user's own."""
        others = ("examples", "epochs", "best_epoch", "seconds", "interrupted")
        return {k: float(v) for k, v in self.metrics.items() if k not in others and isinstance(v, int | float)}

    def write(self, folder: Path, card: str) -> None:
        """Write the files into a folder that has none of them; `card` is the text of README.md."""
        save_model(self.model, folder / MODEL)
        if tensors := self.tensors:
            use = json.dumps({"card": tensors.card.to_dict(), "signature": tensors.signature})
            with needs_extra("publish", "hub"):
                from safetensors.numpy import save
            # "pt" is what timm and transformers look for in a file of torch's tensors.
            metadata = {"format": "pt" if tensors.timm else "np", PUBLISHED: use}
            (folder / TENSORS).write_bytes(save(tensors.arrays, metadata))
        options = self.config.model_options if self.config and self.card.network in NAMES else {}
        fields = config_file(self.card, self.tensors, self.shape, self.classes, options)
        write_text(folder / CONFIG, json.dumps(json.loads(json_text(fields)), indent=2, ensure_ascii=False) + "\n")
        write_text(folder / CARD, card)


def read_publication(source: str | Path, license: str | None = None) -> Publication:
    """Read what is published of a run folder, a `.keras` file or a packaged name.

    Args:
        source: the run or the model.
        license: of the weights; that of the weights they were trained from when None.

    Raises:
        UsageError: nothing there, a damaged file, or a model that is no classifier.
    """
    model = load_model(source)
    if is_ours(model) and not any(layer.name == HEAD for layer in model.layers):
        raise UsageError(f"{model.name} has no head; publish a classifier, or save its weights by rk.save_weights")
    classifier(model)  # which refuses what is none
    folder = Path(source).expanduser()
    config, metrics_file = run_config(folder), folder / METRICS
    known = model_card(model)
    metrics: Mapping[str, Any] = known.metrics
    if config:
        metrics = {}
        if metrics_file.is_file():
            metrics = read_json(metrics_file, "remove it to publish the run without figures")
    if license is not None and not re.fullmatch(r"[\w.+-]+", license):
        raise UsageError(f"license is an identifier such as apache-2.0 or cc-by-4.0, not {license!r}")
    card = dataclasses.replace(
        known,
        license=(license or known.license).lower(),
        data=without_path(known.data),
        source=known.source if known.source.startswith("https://") else without_path(known.source),
        input_size=known.input_size or tuple(side for side in model.input_shape[1:3] if side),
        metrics=known.metrics if config is None or metrics else {},
    )
    if layer := card_layer(model):
        layer.card = card
    if config:
        weights = config.weights and (config.weights if _is_public(config.weights) else without_path(config.weights))
        data = config.data if config.data == GIVEN else without_path(config.data)
        config = dataclasses.replace(config, data=data, weights=weights)
    return Publication(model, card, tensors_of(model), config, metrics)


def _is_public(weights: str) -> bool:
    return weights == "imagenet" or weights in PACKAGED or is_hub_name(weights)


def without_path(name: str) -> str:
    """The last name of a path, which says what data are and nothing of the machine; empty for a home folder."""
    path = Path(name).expanduser()
    last = PurePosixPath(name.replace("\\", "/")).name
    if path == Path.home() or last in ("", ".", "..") or last.startswith("~"):
        return ""
    return last
