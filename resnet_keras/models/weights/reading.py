"""Weights from wherever they are to arrays by name: a mapping, a model, or a file. Nothing in a file is ever run."""

import importlib
import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from resnet_keras.config.run_folder import PUBLISHED
from resnet_keras.errors import UsageError, reason
from resnet_keras.models.archives import check_archive, check_hdf5
from resnet_keras.models.card import ModelCard
from resnet_keras.models.layers import leaves
from resnet_keras.models.preprocessing import card_layer
from resnet_keras.models.registry import OFFER, packaged
from resnet_keras.models.saved import load_model
from resnet_keras.models.signature import same_weights, signature
from resnet_keras.models.weights.weight_layers import is_ours

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "resnet.", "convnext.", "vit.")
NESTED = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema")
"""Keys under which checkpoints keep the weights, beside the epoch, the optimizer and so on."""
KERAS_NAMES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")


@dataclass(frozen=True)
class Weights:
    """What a source holds."""

    tensors: Mapping[str, np.ndarray]
    """By their names there, without the prefixes of wrappers: `layer1.0.conv1.weight`, `conv1_conv/kernel`."""
    where: str
    """What messages call the source."""
    epsilons: Mapping[str, float] = field(default_factory=dict)
    """Of the batch norms, by their names, where the source says."""
    card: ModelCard | None = None
    signature: Mapping[str, Any] = field(default_factory=dict)
    """Of a network of ours: what `signature` returns for it."""
    stride_in_1x1: bool | None = None
    """Where its bottlenecks stride, if the source says so."""


def read_weights(source: Any) -> Weights:
    """Read a source.

    Args:
        source: a mapping of names to arrays or torch tensors, a Keras or torch model, a run folder, a name of
            `PACKAGED`, or a file: `.safetensors`, `.npz`, `.h5` (of keras.applications), `.keras`, `.pth`, `.pt` or
            `.th`.

    Raises:
        UsageError: nothing there, a damaged file, another kind of file, or one that would run code.
    """
    if isinstance(source, Mapping):
        return Weights(_tensors(source, "the mapping"), "the mapping")
    if isinstance(source, keras.Model):
        return _of_keras_model(source, source.name)
    if hasattr(source, "state_dict"):
        where = type(source).__name__
        config = getattr(source, "config", None)  # transformers' networks have one
        stride = getattr(config, "downsample_in_bottleneck", None)
        return Weights(_tensors(source.state_dict(), where), where, stride_in_1x1=stride)
    if not isinstance(source, str | Path):
        raise UsageError(f"weights are a mapping, a model or a file, not {type(source).__name__}")
    if file := packaged(source):
        return _of_keras_model(load_model(file), str(source))
    path = Path(source).expanduser()
    if not path.exists():
        raise UsageError(f"there is no file of weights or run folder at {path}; packaged ones are {OFFER}")
    if path.is_dir() or path.suffix == ".keras":
        return _of_keras_model(load_model(path), str(path))
    kind = path.suffix.lower()
    if kind not in READERS:
        raise UsageError(f"cannot read weights from {path}; give a file ending in .keras, {', '.join(READERS)}")
    try:
        tensors = READERS[kind](path)
        card, options = _published_use(path) if kind == ".safetensors" else (None, {})
    except UsageError:
        raise
    except Exception as error:  # each library raises kinds of its own for a file it cannot read
        raise UsageError(f"{path} is damaged, or not a {kind} file of weights: {reason(error)}") from error
    return Weights(_tensors(tensors, str(path)), str(path), card=card, signature=options)


def _tensors(source: Mapping[str, Any], where: str) -> dict[str, np.ndarray]:
    try:
        return _plain(source, where)
    except UsageError:
        raise
    except Exception as error:  # tensors without numbers, of strange kinds, or in a circle
        raise UsageError(f"the tensors in {where} cannot be read: {reason(error)}") from error


def _plain(tensors: Mapping[str, Any], where: str) -> dict[str, np.ndarray]:
    """Arrays by name, without wrappers' prefixes, counters and what else a checkpoint keeps."""
    for key in NESTED:
        if isinstance(tensors.get(key), Mapping):
            return _plain(tensors[key], where)
    arrays = {}
    for name, value in tensors.items():
        array = _array(value)
        if array is None or array.ndim == 0:
            continue  # num_batches_tracked, an epoch
        while prefix := next((p for p in PREFIXES if str(name).startswith(p)), None):
            name = str(name).removeprefix(prefix)
        if name in arrays:
            raise UsageError(f"{where} has {name} twice, under different prefixes; give one of the two networks alone")
        if array.dtype.kind not in "fV" and array.dtype.name != "bfloat16":
            raise UsageError(f"{name} in {where} holds {array.dtype}, which are no weights")
        array = array.astype("float32")
        if not np.isfinite(array).all():
            raise UsageError(f"{name} in {where} has numbers that are not finite; these weights are damaged")
        if str(name).endswith(("running_var", "moving_variance")) and array.min(initial=0) < 0:
            raise UsageError(f"{name} in {where} has a variance below zero; these weights are damaged")
        arrays[str(name)] = array
    if not arrays:
        raise UsageError(f"there are no tensors in {where}")
    return arrays


def _array(value: Any) -> np.ndarray | None:
    """The numbers of a tensor of any library; None for what is no tensor."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return None
    if not hasattr(value, "detach"):
        return np.asarray(value)
    tensor = value.detach().cpu()  # of torch, of any dtype, on any device
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _of_keras_model(model: keras.Model, where: str) -> Weights:
    tensors: dict[str, Any] = {}
    epsilons: dict[str, float] = {}
    for path, layer in leaves(model):
        owner = path if is_ours(model) else _owner(layer.name, model.name)
        for variable in layer.weights:
            tensors[f"{owner}/{_variable_name(variable.name)}"] = variable
        if isinstance(layer, keras.layers.BatchNormalization):
            epsilons[owner] = layer.epsilon
    card = card_layer(model)
    options = signature(model) if is_ours(model) else {}
    return Weights(_tensors(tensors, where), where, epsilons, card.card if card else None, options)


def _owner(layer: str, model: str) -> str:
    """What a layer of another's network is called here.

    Such networks are flat, or whole networks within one, so the names are those of the layers alone: without the
    network's before them, and without the number of a layer that has no name of its own.
    """
    return re.sub(r"^(layer_normalization)_\d+$", r"\1", layer.removeprefix(f"{model}_"))


def _variable_name(name: str) -> str:
    """As in old files: the one weight of a layer that gives it no name is its kernel."""
    return "kernel" if re.fullmatch(r"variable(_\d+)?", name) else name


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    return import_extra("safetensors.numpy", "safetensors").load_file(path)


def _published_use(path: Path) -> tuple[ModelCard | None, dict[str, Any]]:
    """The card and the signature that `publish` writes into a file's metadata; of another's file nothing."""
    safetensors = import_extra("safetensors", "safetensors")
    with safetensors.safe_open(path, framework="np") as file:
        stored = (file.metadata() or {}).get(PUBLISHED)
    if stored is None:
        return None, {}
    use = json.loads(stored)
    options = {option: same_weights(value) for option, value in use["signature"].items()}
    return ModelCard.from_dict(use["card"]), options


def _read_npz(path: Path) -> Mapping[str, Any]:
    check_archive(path)
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_torch(path: Path) -> Mapping[str, Any]:
    torch = import_extra("torch", "torch", f" to read {path}; or convert it to .safetensors where there is one")
    if zipfile.is_zipfile(path):
        check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if any(word in str(error) for word in ("Unsupported", "TorchScript", "GLOBAL")):
            raise UsageError(
                f"{path} holds more than tensors and could run code, so it was not loaded; if you trust it, load it "
                "with torch yourself and give its state dict"
            ) from error
        raise ValueError("torch cannot read it") from error
    if not isinstance(loaded, Mapping):
        raise UsageError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    return loaded


def import_extra(module: str, package: str, purpose: str = "") -> Any:
    """A module of a package that the user may not have. Raises `UsageError` where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"install {package}{purpose}: pip install {package}") from error


def _read_h5(path: Path) -> Mapping[str, Any]:
    """Keras 2's layout, which keras.applications' files have: a group a layer, in it the arrays' names in order."""
    with h5py.File(path, "r") as file:
        check_hdf5(file, path.stat().st_size, str(path))
        root: Any = file.get("model_weights", file)
        if "layer_names" not in root.attrs:
            raise UsageError(
                f"{path} does not name its layers; load it into the model that wrote it, and give that model or .keras"
            )
        return dict(_of_groups(root))


def _of_groups(root: Any) -> Iterator[tuple[str, np.ndarray]]:
    for layer in map(_text, root.attrs["layer_names"]):
        group = root[layer]
        names = [_text(name) for name in group.attrs["weight_names"]]
        owners = {name.rpartition("/")[0] for name in names}
        whole_network = len(owners) > 1 or len(names) > len(KERAS_NAMES)
        arrays = [np.asarray(group[name]) for name in names]
        for name, array, tensor in zip(names, arrays, _tensor_names(names, arrays), strict=True):
            own = whole_network or name.startswith(f"{layer}/")
            yield f"{name.rsplit('/', 1)[0] if own else layer}/{tensor}", array


def _tensor_names(names: list[str], arrays: list[np.ndarray]) -> list[str]:
    last = [name.rsplit("/", 1)[-1].split(":")[0] for name in names]
    if set(last) <= set(KERAS_NAMES):
        return last
    # Files of Keras 1 number the names; the order has always been the same.
    four = [array.ndim for array in arrays] == [1, 1, 1, 1]
    return list(KERAS_NAMES[2:] if four else KERAS_NAMES[: len(names)])


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


READERS = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".h5": _read_h5,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".th": _read_torch,
    ".tar": _read_torch,
    ".ckpt": _read_torch,
    ".bin": _read_torch,
}
