"""What weights mean: the options of a network that the shapes of its weights do not show.

A `.keras` file has them in its configuration. A file of weights alone has none, so `rk.Model.save_weights` writes those
of its blocks beside the weights.
"""

import dataclasses
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras

from resnet_keras.errors import UsageError
from resnet_keras.models.archives import check_archive
from resnet_keras.models.layers import Composite
from resnet_keras.models.norm_names import OLD_NORMS
from resnet_keras.models.spec import BlockSpec

ATTRIBUTE = "resnet_keras"
"""Of a `.weights.h5` file: the options of the blocks. A file in parts has none."""
SHOWN_BY_SHAPES = {"cardinality", "base_width", "se_ratio"}
OF_TRAINING = {"zero_init_gamma", "initialization"}
NORM_BLOCK_OPTIONS = ["norm_placement", "heads"]
"""Of the blocks with layer norm."""
BLOCK_OPTIONS = [f.name for f in dataclasses.fields(BlockSpec) if f.name not in SHOWN_BY_SHAPES | OF_TRAINING]


def signature(model: keras.Model) -> dict[str, Any]:
    """The options, by layer, that two of our networks must share for the same weights to give the same answers."""
    free = {"name", "dtype", "trainable", "frozen", "drop_rate", "dropout", "zero_init", "dilation"} | OF_TRAINING
    free |= {"stride_as_dilation", "card", "normalise", "layer_dropout", "layer_scale"}
    free |= {"side"}  # of positions, which are interpolated
    found: dict[str, Any] = {}
    for layer in model.layers:
        if isinstance(layer, Composite):
            for option, value in layer.get_config().items():
                if option not in free:
                    found[f"{option} of {layer.name}"] = same_weights(value)
    return found


def same_weights(value: Any) -> Any:
    """The value of an option that stands for all with which the same weights give the same answers."""
    return {"sync_batch": "batch", **OLD_NORMS}.get(value, value) if isinstance(value, str) else value


def is_ambiguous(model: keras.Model) -> bool:
    """Whether weights of a model's names and shapes, which say nothing else, can be of another network.

    The CIFAR nets of pre-activation bottlenecks had their strides in the 3x3 in 0.1, and have them in the first 1x1.
    """
    options = _options_of(model)
    return True in options.get("stride_in_1x1", []) and True in options.get("preactivation", [])


def _block_options(configs: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The values that each option has in the blocks among the configurations of layers."""
    blocks = [config for config in configs if "preactivation" in config or "norm_placement" in config]
    found: dict[str, list[Any]] = {}
    for option in BLOCK_OPTIONS + NORM_BLOCK_OPTIONS:
        values = {same_weights(c[option]) for c in blocks if option in c}
        if values:
            found[option] = sorted(values)
    return found


def _options_of(model: keras.Model) -> dict[str, list[Any]]:
    return _block_options(layer.get_config() for layer in model.layers if isinstance(layer, Composite))


def write_options(model: keras.Model, path: str | Path) -> None:
    """Write the options of a model's blocks into the `.weights.h5` file that it was saved to."""
    if (path := Path(path)).is_file() and h5py.is_hdf5(path):
        with h5py.File(path, "r+") as file:
            file.attrs[ATTRIBUTE] = json.dumps(_options_of(model))


def check_options(model: keras.Model, path: str | Path) -> None:
    """Raise `UsageError` for a file of weights of blocks that compute something else, or that may.

    A file that cannot be read is left to whoever reads its weights.
    """
    ours = _options_of(model)
    try:
        theirs = _stored_options(Path(path)) if ours else None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return
    if theirs is None:
        if is_ambiguous(model):
            raise unsaid_stride(model, str(path))
        return
    for option in ours.keys() & theirs.keys():
        if ours[option] != theirs[option]:
            there, here = (", ".join(map(str, values[option])) for values in (theirs, ours))
            raise UsageError(
                f"{path} is of a network whose blocks have {option} {there}, those of {model.name} have {here}; build "
                "it with the same options"
            )


def unsaid_stride(model: keras.Model, where: str) -> UsageError:
    """The error for weights that do not say where their blocks stride, and a network that is ambiguous."""
    return UsageError(
        f"{where} does not say where its blocks stride: in their first 1x1, as those of {model.name}, or in the 3x3, "
        "as in version 0.1; if it is of 0.1, build the network with stride_in_1x1=False"
    )


def _stored_options(path: Path) -> dict[str, list[Any]] | None:
    """The options that a file of weights has; None where it says nothing."""
    if path.suffix == ".keras":
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
        return _block_options(layer["config"] for layer in config["config"]["layers"])
    if path.suffix == ".json":
        return None
    with h5py.File(path, "r") as file:
        stored = file.attrs.get(ATTRIBUTE)
    if stored is None:
        return None
    return {option: sorted({same_weights(v) for v in values}) for option, values in json.loads(stored).items()}
