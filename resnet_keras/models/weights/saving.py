"""Our weights in others' layouts, so that the way is open in both directions."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_keras.errors import UsageError, reason
from resnet_keras.files import atomic_write
from resnet_keras.models.weights.axes import to_theirs
from resnet_keras.models.weights.layouts import (
    TIMM_CONVNEXT,
    TIMM_V2,
    TIMM_VIT,
    TORCH_DENSENET,
    TORCH_RESNET,
    TORCH_VGG,
    Layout,
)
from resnet_keras.models.weights.reading import import_extra
from resnet_keras.models.weights.weight_layers import WeightLayers

SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".th")


def torch_state_dict(model: keras.Model) -> dict[str, np.ndarray]:
    """A network's weights as PyTorch names and lays them out.

    ResNets as torchvision and timm do (timm where there is more: SE, D, RS, pre-activation); nets with a CIFAR stem as
    the common PyTorch CIFAR code does (`linear`, `shortcut`); VGG and DenseNet as torchvision does; ConvNeXt and ViT as
    timm does. Give each array to
    `torch.from_numpy` for `load_state_dict`.

    Args:
        model: a network of ours.

    Returns:
        Arrays by name, float32; kernels are `[out, in, height, width]`.

    Raises:
        UsageError: (a ValueError) for a network that PyTorch's libraries have no names for.

    Examples:
        >>> state = rk.torch_state_dict(rk.build_resnet(18))
        >>> state["layer1.0.conv1.weight"].shape
        (64, 64, 3, 3)
    """
    network = WeightLayers(model)
    layout = _layout(network)
    layout.check(network)
    names = layout.names(network)
    state: dict[str, np.ndarray] = {}
    for path, layer in network.by_path.items():
        if path not in names:
            raise UsageError(f"{layout.title} have no name for {path} of {model.name}; save it as .keras")
        for variable, value in layer.variables.items():
            array = to_theirs(layer, layout, variable, np.asarray(value.numpy(), "float32"))
            state[layout.tensor(names[path][0], variable)] = np.ascontiguousarray(array)
        if "moving_mean" in layer.variables:
            state[f"{names[path][0]}.num_batches_tracked"] = np.zeros((), "int64")
    return state


def _layout(network: WeightLayers) -> Layout:
    if network.blocks:
        return TIMM_V2 if network.preactivation else TORCH_RESNET
    if "stem/tokens" in network.by_path:
        return TIMM_VIT
    if "head_norm" in network.by_path:
        return TIMM_CONVNEXT
    return TORCH_VGG if "stage1_conv1/conv" in network.by_path else TORCH_DENSENET


def save_weights(model: keras.Model, path: str | Path) -> Path:
    """Write a network's weights as a torch state dict, the file whole or not at all.

    Args:
        model: a network of ours.
        path: a file ending in `.safetensors`, `.npz`, or where torch is installed `.pth`, `.pt` or `.th`.

    Returns:
        The path of the file.

    Raises:
        UsageError: another ending, a folder that is not there, or a network that PyTorch's libraries cannot name.

    Examples:
        >>> path = rk.save_weights(rk.build_cifar_resnet(8), "resnet8.safetensors")
        >>> rk.load_weights(rk.build_cifar_resnet(8), path)
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise UsageError(f"cannot save weights as {path.name}; end the name in {', '.join(SUFFIXES)}")
    state = torch_state_dict(model)
    try:
        with atomic_write(path) as beside:
            _WRITERS.get(path.suffix, _write_torch)(beside, state)
    except UsageError:
        raise
    except Exception as error:  # each library has kinds of its own for a folder that cannot be written
        raise UsageError(f"cannot write {path}: {reason(error)}") from error
    return path


def _write_safetensors(path: Path, state: dict[str, np.ndarray]) -> None:
    path.write_bytes(import_extra("safetensors.numpy", "safetensors").save(state))  # its save_file hides it from others


def _write_npz(path: Path, state: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **state)


def _write_torch(path: Path, state: dict[str, np.ndarray]) -> None:
    torch = import_extra("torch", "torch", f" to write {path.name}; or save as .safetensors")
    torch.save({name: torch.from_numpy(array) for name, array in state.items()}, path)


_WRITERS = {".safetensors": _write_safetensors, ".npz": _write_npz}
