"""`load_weights`: finds the layout of a source, checks every tensor, and only then changes the model."""

import dataclasses
import json
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_keras.errors import UsageError, reason
from resnet_keras.models.card import ModelCard
from resnet_keras.models.graph import head_of
from resnet_keras.models.normalization import BN_EPSILON
from resnet_keras.models.preprocessing import OF_THE_HEAD, card_layer, model_card
from resnet_keras.models.registry import COMPLEXITY, NAMES, hub_name
from resnet_keras.models.signature import check_options, is_ambiguous, signature, unsaid_stride
from resnet_keras.models.weights.axes import to_ours, to_theirs
from resnet_keras.models.weights.hub import fetch, is_hub_name
from resnet_keras.models.weights.layouts import (
    HEAD_TENSORS,
    HIDDEN_TENSORS,
    LAYOUTS,
    OWN,
    TRANSFORMERS,
    Layout,
)
from resnet_keras.models.weights.reading import Weights, read_weights
from resnet_keras.models.weights.weight_layers import HEAD, WeightLayer, WeightLayers


def load_weights(model: keras.Model, source: Any, *, skip_head: bool = False, set_card: bool = True) -> None:
    """Load weights from elsewhere into a network of ours; the model changes wholly or not at all.

    The source's layout is found by its names: torchvision, timm, the common PyTorch CIFAR nets, keras.applications
    (biases of its convolutions are folded into the norms, exactly), Hugging Face transformers, KerasHub, our own.
    The layer norms of transformers' ViT and of the end of its ConvNeXt add 1e-12 where ours add 1e-6.
    CIFAR nets with their blocks in one list (`conv0` and `convs.0`, `stem.0` and `blocks.0`) are loaded where their
    shortcuts have weights: without, nothing says whether they leave pixels out or average.

    Weights of RGB images fit a network for 1 channel, which reads the sum of the three, or for more, which read the
    colours in turn at 3/N; the card's mean and std follow.

    Args:
        model: a network of ours. A classifier is loaded with its head, a network without one leaves the head out.
        source: a mapping of names to arrays, a Keras or torch model, a run folder, a file (`.safetensors`, `.npz`,
            `.h5`, `.keras`, `.weights.h5` of the same network; `.pth`, `.pt` and `.th` where torch is installed), a
            name on the Hugging Face Hub ("timm/resnet50.a1_in1k"), "cifar10-jpeg", which comes with the package, or
            "imagenet" for a named network.
        skip_head: leave the model's head as it is, for images of other classes.
        set_card: let the model's card say how the source's images are prepared, and its labels, where it says so.
            Models made of this one's layers that have been compiled before must be compiled again.

    Raises:
        UsageError: nothing there, or weights of another network: names the first tensors that do not fit, and the
            network that they look like.

    Examples:
        >>> model = rk.build_cifar_resnet(20, classes=3)
        >>> rk.load_weights(model, "cifar10-jpeg", skip_head=True)
        >>> state = rk.torch_state_dict(rk.build_resnet(18))  # or torch's model.state_dict()
        >>> rk.load_weights(rk.build_resnet(18), state)
        >>> rk.load_weights(rk.build_resnet(50), "timm/resnet50.a1_in1k")  # doctest: +SKIP
    """
    network = WeightLayers(model)
    if is_own_file(source):
        _load_own_file(model, Path(source), skip_head)
        return
    if source == "imagenet":
        source = _published(model)
    weights = find_weights(source)
    if set_card and not skip_head and weights.card and weights.card.several and head_of(model).activation == "softmax":
        raise UsageError(
            f"{weights.where} gives several labels an image, and {model.name} ends in a softmax; build it with "
            "classifier_activation='sigmoid'"
        )
    card = assign(network, weights, skip_head)
    if set_card:
        _set_card(model, card, skip_head)


def is_own_file(source: Any) -> bool:
    """Whether a source is a `.weights.h5` file, which only the network that wrote it can read."""
    return isinstance(source, str | Path) and str(source).endswith(".weights.h5")


def _published(model: keras.Model) -> str:
    network = model_card(model).network
    if network not in NAMES:
        raise UsageError(f"{model.name} is none of the named networks, so 'imagenet' names no weights for it")
    return hub_name(NAMES[network].spec, network)


def find_weights(source: Any) -> Weights:
    """Read a source, from the Hub where it is a name there."""
    return fetch(source) if is_hub_name(source) else read_weights(source)


def assign(network: WeightLayers, weights: Weights, skip_head: bool = False) -> ModelCard | None:
    """Put a source's tensors into a network, or raise `UsageError` and change nothing.

    Returns the card of the source's use: its own, or else what its library always does.
    """
    found = match(network, weights, skip_head)
    for path, value in found.values.items():
        owner, _, variable = path.rpartition("/")
        network.by_path[owner].variables[variable].assign(value)
    return weights.card or found.layout.card(network)


def _of_channels(kernel: np.ndarray, shape: tuple[int, ...], card: ModelCard | None) -> np.ndarray:
    """The kernel `[k, k, 3, filters]` that reads RGB as one for images of other channels, as timm has it.

    One channel is read by the sum, which is what a grey image gives as RGB; more of them by the colours in turn, at
    3/N.
    """
    channels = shape[2] if len(shape) == 4 else 3
    if kernel.ndim != 4 or kernel.shape[2] != 3 or channels == 3:
        return kernel
    rgb = kernel[:, :, ::-1] if card and card.channels == "BGR" else kernel
    if channels == 1:
        return rgb.sum(2, keepdims=True)
    return rgb[:, :, np.arange(channels) % 3] * np.float32(3 / channels)


def _card_of_channels(card: ModelCard, channels: int) -> ModelCard:
    """The card of RGB weights for images of other channels: the three in turn, or for one channel their mean."""
    if len(card.mean) != 3:
        return card
    one = channels == 1
    mean, std = (
        (sum(values) / 3,) if one else tuple(values[i % 3] for i in range(channels)) for values in (card.mean, card.std)
    )
    return dataclasses.replace(card, mean=mean, std=std, channels="RGB")


def classes_of(weights: Weights) -> int | None:
    """Classes of a source's head, where it has one."""
    biases = (name for name in weights.tensors if name in HEAD_TENSORS and name.endswith("bias"))
    return next((weights.tensors[name].size for name in biases), None)


@dataclass
class Match:
    """What of a source fits a network, and what does not."""

    layout: Layout
    first: str
    """Path of the convolution that reads the image."""
    values: dict[str, np.ndarray] = field(default_factory=dict)
    """By our variables' paths."""
    biases: dict[str, np.ndarray] = field(default_factory=dict)
    """Of convolutions that have none here, by the paths of our layers."""
    used: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    def take(self, layer: WeightLayer, theirs: str, weights: Weights) -> None:
        """Find the tensors of a layer under its name there."""
        for variable, ours in layer.variables.items():
            name = self.layout.tensor(theirs, variable)
            parts = name.split("+")
            if missing := [part for part in parts if part not in weights.tensors]:
                self.missing += missing
                continue
            self.used |= set(parts)
            given = _joined([weights.tensors[part] for part in parts])
            value = to_ours(layer, self.layout, variable, given)
            if variable == "kernel" and value is not None and layer.path == self.first:
                value = _of_channels(value, ours.shape, weights.card)
            if value is None or value.shape != ours.shape:
                wanted = to_theirs(layer, self.layout, variable, np.empty(ours.shape, "int8")).shape
                self.misshapen.append(f"{name} is {given.shape} there and {wanted} here")
            elif variable == "moving_variance":  # what their norm adds before the root, ours must have in the variance
                epsilon = weights.epsilons.get(theirs, self.layout.epsilon)
                self.values[f"{layer.path}/{variable}"] = value + np.float32(epsilon - BN_EPSILON)
            else:
                self.values[f"{layer.path}/{variable}"] = value
        if "kernel" not in layer.variables or "bias" in layer.variables:
            return
        name = self.layout.tensor(theirs, "bias")
        if name in weights.tensors:
            self.used.add(name)
            self.biases[layer.path] = weights.tensors[name]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Parts one after the other along the first axis; the first alone, which will not fit, where they cannot be so."""
    if len({part.shape[1:] for part in parts}) > 1:
        return parts[0]
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def match(network: WeightLayers, weights: Weights, skip_head: bool) -> Match:
    """Find the source's layout and a value for each variable of a network, or raise `UsageError`."""
    layout, names = _layout_of(network, weights)
    found = Match(layout, next(iter(network.by_path)))
    use_head = HEAD in network.by_path and not skip_head
    for path, layer in network.by_path.items():
        if path not in names:
            found.missing.append(path)
        elif path != HEAD or use_head:
            found.take(layer, names[path], weights)
    left_out = set() if use_head else HEAD_TENSORS
    if HEAD not in network.by_path:
        left_out = left_out | HIDDEN_TENSORS
    extra = [name for name in weights.tensors if name not in found.used | left_out]
    if found.missing or found.misshapen or extra:
        raise _mismatch(network, weights, found, extra)
    _check_signature(network, weights, layout)
    if left := _fold_biases(network, found.values, found.biases):
        raise UsageError(f"{weights.where} has a bias for {left[0]}, which no norm follows in {network.model.name}")
    return found


def _check_signature(network: WeightLayers, weights: Weights, layout: Layout) -> None:
    """Weights of the same shapes can mean something else; where the source or its library says so, refuse them."""
    layout.check(network)
    ours, theirs = signature(network.model), weights.signature
    if layout is OWN and not theirs and is_ambiguous(network.model):
        raise unsaid_stride(network.model, weights.where)
    unlike = next((option for option in theirs if option in ours and ours[option] != theirs[option]), None)
    if unlike:
        raise UsageError(
            f"the weights would fit and the answers be wrong: {unlike} is {theirs[unlike]} in {weights.where} and "
            f"{ours[unlike]} in {network.model.name}; build it with the same options"
        )
    stride = weights.stride_in_1x1 or False
    if layout is TRANSFORMERS and network.bottleneck and stride != network.stride_in_1x1:
        place, variant = ("first 1x1", "v1") if stride else ("3x3", "v1.5")
        raise UsageError(
            f"the weights would fit and the answers be wrong: {weights.where} strides in the {place} of a block; "
            f"build variant {variant!r} for them"
        )


def _layout_of(network: WeightLayers, weights: Weights) -> tuple[Layout, dict[str, str]]:
    """The layout that most of the source's tensors follow, and the name there of each layer."""
    given = {name.rpartition("/" if "/" in name else ".")[0] for name in weights.tensors} | weights.tensors.keys()
    found: list[tuple[int, Layout, dict[str, str]]] = []
    for layout in LAYOUTS:
        names = layout.names(network)
        chosen = {path: next((n for n in some if _is_in(n, given)), some[0]) for path, some in names.items() if some}
        hits = sum(_is_in(name, given) for path, name in chosen.items() if path != HEAD)
        found.append((hits, layout, chosen))
    hits, layout, chosen = max(found, key=lambda item: item[0])
    if not hits:
        some, tried = ", ".join(list(weights.tensors)[:3]), "; ".join(layout.title for layout in LAYOUTS)
        raise UsageError(
            f"{weights.where} is in no layout that is known for {network.model.name}: it has {some} ...; tried were "
            f"{tried}"
        )
    return layout, chosen


def _is_in(name: str, given: Collection[str]) -> bool:
    """Whether a source has a layer of this name, or the tensors that it names one by one."""
    parts = (part.rpartition("=")[2] for part in name.split(",") if "=" in part)
    return name in given or any(one in given for part in parts for one in part.split("+"))


def _mismatch(network: WeightLayers, weights: Weights, found: Match, extra: list[str]) -> UsageError:
    """The error that names the first tensors that do not fit, and the network that they are of."""
    name, missing, misshapen = network.model.name, found.missing, found.misshapen
    if all(item.split(" is ")[0] in HEAD_TENSORS for item in [*missing, *misshapen, *extra]):
        what = misshapen[0] if misshapen else f"{(missing or extra)[0]} is {'not ' if missing else ''}there"
        hint = "load all but the head with skip_head=True, or build the model with as many classes"
        return UsageError(f"the head of {weights.where} does not fit {name}: {what}; {hint}")
    said = [_some(misshapen)] if misshapen else []
    if missing:
        said.append(f"{_some(missing)} missing there")
    if extra:
        said.append(f"no place here for {_some(extra)}")
    alike, said_there = _alike(weights), weights.card.network if weights.card else ""
    alike = [said_there] if said_there in alike else alike
    alike = [] if network.model.name in alike else alike
    hint = f"; they look like {' or '.join(alike[:4])}" if alike else ""
    return UsageError(f"the weights of {weights.where} do not fit {name}: {'; '.join(said)}{hint}")


def _some(names: list[str]) -> str:
    rest = len(names) - 2
    return ", ".join(names[:2]) + (f" and {rest} more" if rest > 0 else "")


def _alike(weights: Weights) -> list[str]:
    """Named networks whose kernels have as many numbers, the head's left out."""
    count = sum(v.size for name, v in weights.tensors.items() if v.ndim > 1 and name not in HEAD_TENSORS)
    table: Mapping[str, Mapping[str, int]] = json.loads(COMPLEXITY.read_text())
    return [name for name, row in table.items() if row["kernel_parameters"] == count]


def _fold_biases(network: WeightLayers, values: dict[str, np.ndarray], biases: dict[str, np.ndarray]) -> list[str]:
    """Move biases of convolutions that have none here into the means of the norms that read them.

    Exact: a norm subtracts its mean, and what is added to the one may be taken from the other. In a pre-activation net
    a bias flows with the residual stream into every norm up to the next projection. Returns what found no norm.
    """

    def shift(norm: str, bias: Any) -> None:
        mean = f"{norm}/moving_mean"
        values[mean] = values[mean] - bias

    for path in list(biases):
        norm = path.removesuffix("conv") + "norm"
        if f"{norm}/moving_mean" in values:
            shift(norm, biases.pop(path))
    if not (biases and network.preactivation and "final_norm/norm/moving_mean" in values):
        return list(biases)
    stream: Any = biases.pop("stem/conv", 0.0)
    for block in network.blocks:
        shift(f"{block.name}/preactivation/norm", stream)
        projects = f"{block.name}/projection/conv" in network.by_path
        through = biases.pop(f"{block.name}/projection/conv", 0.0) if projects else stream
        stream = through + biases.pop(f"{block.name}/conv{len(block.convolutions())}/conv", 0.0)
    shift("final_norm/norm", stream)
    return list(biases)


def _set_card(model: keras.Model, card: ModelCard | None, skip_head: bool) -> None:
    layer = card_layer(model)
    assert layer is not None  # every network of ours has one
    if card is None:  # how its images are prepared may be as before; whose weights they are is not
        layer.card = dataclasses.replace(
            layer.card, source="", license="", recipe="", claims={}, metrics={}, temperature=None, int8_ranges=()
        )
        return
    classes = model.output_shape[-1] if HEAD in {part.name for part in model.layers} else None
    if skip_head or classes != len(card.labels):  # a head that is put on features has classes of its own
        own = {name: getattr(layer.card, name) for name in ("labels", "label_ids", "thresholds")}
        card = dataclasses.replace(card, **{**OF_THE_HEAD, **own})
    if not card.fits(model.input_shape[-1]):
        card = _card_of_channels(card, model.input_shape[-1])
    layer.card = dataclasses.replace(card, network=layer.card.network or card.network)
    # What was compiled before has the old numbers in its graph.
    model.train_function = model.test_function = model.predict_function = None


def _load_own_file(model: keras.Model, path: Path, skip_head: bool) -> None:
    """A `.weights.h5` file, which names nothing but the order of the layers."""
    path = path.expanduser()
    if not path.is_file():
        raise UsageError(f"there is no file of weights at {path}")
    check_options(model, path)
    before = model.get_weights()
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model.load_weights(path, skip_mismatch=skip_head)
        skipped = " ".join(str(warning.message).rpartition("List of objects")[2] for warning in said)
        if set(re.findall(r"name=(\w+)", skipped)) - {HEAD}:
            raise ValueError("more layers than the head do not fit")
        if not all(np.isfinite(weight).all() for weight in model.get_weights()):
            raise ValueError("it has numbers that are not finite")
    except (ValueError, OSError, KeyError) as error:
        model.set_weights(before)
        why = "it is of another network" if "objects could not be loaded" in str(error) else reason(error)
        raise UsageError(f"{path} does not fit {model.name}: {why}") from error
