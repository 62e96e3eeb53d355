"""How others name the tensors of our networks: one layout for each kind of source, written as rows.

A row is a pattern of the paths of our layers, and the names of such a layer there. Of several names the first that the
source has counts. A name with `=` names tensors one by one. In names, `s`, `b` and `c` are the numbers of stage, block
and convolution; `s0` and so on count from zero, `s1` and so on from two.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from resnet_keras.errors import UsageError
from resnet_keras.models.card import ModelCard, imagenet_classes
from resnet_keras.models.norm_blocks import ConvNeXtBlock, EncoderBlock
from resnet_keras.models.normalization import BN_EPSILON
from resnet_keras.models.weights.layer_norm_rows import (
    KERAS_PREFIXES,
    keras_applications_convnext,
    timm_convnext,
    timm_vit,
    torchvision_convnext,
    torchvision_vit,
    transformers_convnext,
    transformers_vit,
)
from resnet_keras.models.weights.weight_layers import HEAD, WeightLayers

Rows = Mapping[str, tuple[str, ...]]
TENSORS: Mapping[str, Mapping[str, str]] = {
    "torch": {
        "kernel": "weight",
        "bias": "bias",
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    },
    "keras": {name: name for name in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")},
}
TORCH_HEADS = ("fc", "linear", "classifier", "classifier.1", "classifier.2", "classifier.6", "head", "head.fc")
HEAD_TENSORS = {f"{layer}{end}" for layer in (*TORCH_HEADS, "heads.head") for end in (".weight", ".bias")} | {
    f"{layer}/{end}"
    for layer in ("predictions", "probs", "fc1000", HEAD, *(f"{prefix}head_dense" for prefix in KERAS_PREFIXES))
    for end in ("kernel", "bias")
}
"""Names of classifiers' tensors, in all layouts."""
HIDDEN_TENSORS = {
    f"{layer}.{end}"
    for layer in ("classifier.0", "classifier.3", "pre_logits.fc1", "pre_logits.fc2")
    for end in ("weight", "bias")
} | {f"{layer}/{end}" for layer in ("fc1", "fc2") for end in ("kernel", "bias")}
"""Names of VGG's dense layers, which a network without a head leaves out too."""


@dataclass(frozen=True)
class Layout:
    """Another library's names for our layers."""

    title: str
    style: Literal["torch", "keras"]
    rows: Callable[[WeightLayers], Rows]
    epsilon: float = BN_EPSILON
    """Of its batch norms, where the source itself does not say."""
    check: Callable[[WeightLayers], None] = lambda network: None
    """Raises `UsageError` for a network whose weights would fit there and mean something else."""
    scale_axes: int = 1
    """Of the gammas of LayerScale, of which all but the first are 1."""
    grouped: bool = False
    """Its depthwise convolutions are ordinary ones of as many groups as channels."""
    card: Callable[[WeightLayers], ModelCard | None] = lambda network: None
    """How this library prepares images for such a network, where it always does it in one way."""

    def names(self, network: WeightLayers) -> dict[str, tuple[str, ...]]:
        """The names of each layer that this layout has, likeliest first."""
        rows = [(re.compile(pattern), names) for pattern, names in self.rows(network).items()]
        found: dict[str, tuple[str, ...]] = {}
        for path in network.by_path:
            for pattern, names in rows:
                if match := pattern.fullmatch(path):
                    found[path] = tuple(name.format(**_numbers(match)) for name in names)
                    break
        return found

    def tensor(self, layer: str, variable: str) -> str:
        """The full name of a variable of one of their layers."""
        if "=" in layer:
            return dict(part.split("=") for part in layer.split(",")).get(variable, "")
        return f"{layer}{'.' if self.style == 'torch' else '/'}{TENSORS[self.style].get(variable, variable)}"


def _numbers(match: re.Match[str]) -> dict[str, int]:
    numbers = {key: int(value) for key, value in match.groupdict().items()}
    return {f"{key}{suffix}": n + d for key, n in numbers.items() for suffix, d in (("", 0), ("0", -1), ("1", 1))}


BLOCK = r"stage(?P<s>\d+)_block(?P<b>\d+)"
LAYER = r"stage(?P<s>\d+)_layer(?P<b>\d+)"
CONV, NORM = r"/conv(?P<c>\d+)/conv", r"/conv(?P<c>\d+)/norm"


def _torch_resnet(network: WeightLayers) -> Rows:
    deep = "stem1/conv" in network.by_path
    at = 1 if any(block.spec.shortcut == "D" for block in network.blocks) else 0  # D's pool comes before its projection
    sides = ("shortcut", "downsample") if network.small_stem else ("downsample", "shortcut")
    return {
        "stem1/conv": ("conv1.0",),
        "stem1/norm": ("conv1.1",),
        "stem2/conv": ("conv1.3",),
        "stem2/norm": ("conv1.4",),
        "stem/conv": ("conv1.6",) if deep else ("conv1",),
        "stem/norm": ("bn1",),
        "stem_pool/conv": ("maxpool.0",),
        "stem_pool/norm": ("maxpool.1",),
        BLOCK + CONV: ("layer{s}.{b0}.conv{c}",),
        BLOCK + NORM: ("layer{s}.{b0}.bn{c}",),
        BLOCK + "/projection/conv": tuple(f"layer{{s}}.{{b0}}.{side}.{at}" for side in sides),
        BLOCK + "/projection/norm": tuple(f"layer{{s}}.{{b0}}.{side}.{at + 1}" for side in sides),
        BLOCK + "/se/reduce": ("layer{s}.{b0}.se.fc1", "layer{s}.{b0}.se_module.fc1"),
        BLOCK + "/se/expand": ("layer{s}.{b0}.se.fc2", "layer{s}.{b0}.se_module.fc2"),
        HEAD: ("linear", "fc") if network.small_stem else ("fc", "linear"),
    }


def _torch_flat(network: WeightLayers) -> Rows:
    """CIFAR nets whose blocks are counted over all stages: `conv0`, `convs.0.conv1`, or `stem.0`, `blocks.0.conv1`."""
    if network.preactivation or not network.blocks:
        return {}
    rows: dict[str, tuple[str, ...]] = {
        "stem/conv": ("conv0", "stem.0"),
        "stem/norm": ("bn0", "stem.1"),
        HEAD: ("fc", "linear", "head", "classifier"),
    }
    for i, block in enumerate(network.blocks):
        ours, theirs = re.escape(block.name), (f"convs.{i}.", f"blocks.{i}.")
        rows[ours + CONV] = tuple(each + "conv{c}" for each in theirs)
        rows[ours + NORM] = tuple(each + "bn{c}" for each in theirs)
        for at, part in enumerate(("conv", "norm")):
            names = tuple(f"{each}{side}.{at}" for each in theirs for side in ("shortcut", "downsample"))
            rows[f"{ours}/projection/{part}"] = names
    return rows


def _torch_preactivation(network: WeightLayers) -> Rows:
    return {
        "stem/conv": ("conv1",),
        BLOCK + "/preactivation/norm": ("layer{s}.{b0}.bn1",),
        BLOCK + CONV: ("layer{s}.{b0}.conv{c}",),
        BLOCK + NORM: ("layer{s}.{b0}.bn{c1}",),
        BLOCK + "/projection/conv": ("layer{s}.{b0}.shortcut.0", "layer{s}.{b0}.downsample.0"),
        "final_norm/norm": ("bn1", "bn", "norm"),
        HEAD: ("linear", "fc"),
    }


def _timm_resnetv2(network: WeightLayers) -> Rows:
    return {
        "stem/conv": ("stem.conv",),
        BLOCK + "/preactivation/norm": ("stages.{s0}.blocks.{b0}.norm1",),
        BLOCK + CONV: ("stages.{s0}.blocks.{b0}.conv{c}",),
        BLOCK + NORM: ("stages.{s0}.blocks.{b0}.norm{c1}",),
        BLOCK + "/projection/conv": ("stages.{s0}.blocks.{b0}.downsample.conv",),
        BLOCK + "/se/reduce": ("stages.{s0}.blocks.{b0}.se.fc1",),
        BLOCK + "/se/expand": ("stages.{s0}.blocks.{b0}.se.fc2",),
        "final_norm/norm": ("norm",),
        HEAD: ("head.fc",),
    }


def _transformers(network: WeightLayers) -> Rows:
    block = "encoder.stages.{s0}.layers.{b0}."
    return {
        "stem/conv": ("embedder.embedder.convolution",),
        "stem/norm": ("embedder.embedder.normalization",),
        BLOCK + CONV: (block + "layer.{c0}.convolution",),
        BLOCK + NORM: (block + "layer.{c0}.normalization",),
        BLOCK + "/projection/conv": (block + "shortcut.convolution",),
        BLOCK + "/projection/norm": (block + "shortcut.normalization",),
        HEAD: ("classifier.1",),
    }


def _torch_vgg(network: WeightLayers) -> Rows:
    rows: dict[str, tuple[str, ...]] = {}
    at, stage = 0, "stage1"
    for path in (path for path in network.by_path if re.fullmatch(r"stage\d+_conv\d+/conv", path)):
        if not path.startswith(f"{stage}_"):
            at, stage = at + 1, path.split("_")[0]  # over the pool
        norm = path.removesuffix("conv") + "norm"
        rows[path] = (f"features.{at}",)
        if norm in network.by_path:
            rows[norm] = (f"features.{at + 1}",)
        at += 3 if norm in network.by_path else 2
    heads = {"fc1": ("classifier.0", "pre_logits.fc1"), "fc2": ("classifier.3", "pre_logits.fc2")}
    return {**rows, **heads, HEAD: ("classifier.6", "head.fc")}


def _torch_densenet(network: WeightLayers) -> Rows:
    layer, transition = "features.denseblock{s}.denselayer{b}.", "features.transition{s}."
    return {
        "stem/conv": ("features.conv0",),
        "stem/norm": ("features.norm0",),
        LAYER + "/preactivation/norm": (layer + "norm1", layer + "norm.1"),  # torchvision's files have the latter
        LAYER + CONV: (layer + "conv{c}", layer + "conv.{c}"),
        LAYER + NORM: (layer + "norm{c1}", layer + "norm.{c1}"),
        r"transition(?P<s>\d+)/preactivation/norm": (transition + "norm",),
        r"transition(?P<s>\d+)/conv1/conv": (transition + "conv",),
        "final_norm/norm": ("features.norm5", "features.norm_final"),
        HEAD: ("classifier",),
    }


def _keras_applications(network: WeightLayers) -> Rows:
    block = "conv{s1}_block{b}_"
    return {
        "stem/conv": ("conv1_conv", "conv1/conv"),
        "stem/norm": ("conv1_bn", "conv1/bn"),
        BLOCK + "/preactivation/norm": (block + "preact_bn",),
        BLOCK + CONV: (block + "{c}_conv",),
        BLOCK + NORM: (block + "{c}_bn",),
        BLOCK + "/projection/conv": (block + "0_conv",),
        BLOCK + "/projection/norm": (block + "0_bn",),
        LAYER + "/preactivation/norm": (block + "0_bn",),
        LAYER + CONV: (block + "{c}_conv",),
        LAYER + NORM: (block + "{c}_bn",),
        r"transition(?P<s>\d+)/preactivation/norm": ("pool{s1}_bn",),
        r"transition(?P<s>\d+)/conv1/conv": ("pool{s1}_conv",),
        r"stage(?P<s>\d+)_conv(?P<b>\d+)/conv": ("block{s}_conv{b}",),
        "final_norm/norm": ("post_bn", "bn"),
        "fc1": ("fc1",),
        "fc2": ("fc2",),
        HEAD: ("predictions", "probs", "fc1000"),
    }


def _check_keras_applications(network: WeightLayers) -> None:
    if network.preactivation and network.bottleneck and not network.slim:
        theirs = "keras.applications' V2 in the last"
        raise _answers_differ(network, "strides in the first block of a stage", theirs, "variant 'v2_slim'")
    if network.bottleneck and not (network.preactivation or network.stride_in_1x1):
        theirs = "keras.applications' in its first 1x1"
        raise _answers_differ(network, "strides in the 3x3 of a block", theirs, "variant 'v1'")


def _check_stride_in_3x3(network: WeightLayers) -> None:
    """Of torchvision, timm, KerasHub, and PyTorch's CIFAR nets."""
    if network.stride_in_1x1:
        build = "with stride_in_1x1=False" if network.preactivation else "variant 'v1.5'"
        raise _answers_differ(network, "strides in the first 1x1 of a block", "that library's in its 3x3", build)
    if network.slim:
        theirs = "that library's in the first"
        raise _answers_differ(network, "strides in the last block of a stage", theirs, "variant 'v2'")
    if network.antialias:
        theirs = "that library's does not, or not in the same places"
        raise _answers_differ(network, "blurs where it strides", theirs, "variant 'v1.5'")


def _check_flat(network: WeightLayers) -> None:
    """Such names are of many people's programs, whose nets differ where no weight shows it."""
    name = network.model.name
    if network.bottleneck:
        raise UsageError(
            f"weights named so do not say where their bottlenecks stride, in the 1x1 or in the 3x3: they cannot be "
            f"loaded into {name}; rename them as torchvision's (layer1.0.conv1) for a stride in the 3x3"
        )
    if not network.small_stem or network.antialias or {b.spec.shortcut for b in network.blocks} - {"B", "C"}:
        raise UsageError(
            f"weights named so do not say what {name} does where no weight is: whether shortcuts are there, leave "
            "pixels out, average or blur; where you know that they are the same, rename them as torchvision's "
            "(layer1.0.conv1)"
        )


def _check_pre_norm(network: WeightLayers) -> None:
    for block in network.model.layers:
        if isinstance(block, ConvNeXtBlock | EncoderBlock):
            if block.spec.norm_placement != "pre":
                raise _answers_differ(network, "has its norms behind the sums", "that library's before", "pre-norm")
            if block.spec.activation != "gelu":
                raise _answers_differ(network, f"has {block.spec.activation}", "that library's gelu", "with gelu")


def _answers_differ(network: WeightLayers, ours: str, theirs: str, build: str) -> UsageError:
    name = network.model.name
    return UsageError(
        f"the weights would fit and the answers be wrong: {name} {ours}, {theirs}; build {build} for them"
    )


def _keras_applications_card(network: WeightLayers) -> ModelCard:
    """`preprocess_input` of each family there: "caffe" for VGG and ResNet, "tf" for ResNetV2, "torch" for DenseNet.

    ConvNeXt has the last in its graph, unless it is built without.
    """
    head = network.by_path.get(HEAD)
    ids, labels = imagenet_classes() if head and head.variables["bias"].shape == (1000,) else ((), ())
    card = ModelCard(labels=labels, label_ids=ids, source="keras.applications")
    if network.preactivation:
        return dataclasses.replace(card, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    if {"transition1/conv1/conv", "head_norm"} & network.by_path.keys():
        return card
    mean = (123.68 / 255, 116.779 / 255, 103.939 / 255)
    return dataclasses.replace(card, mean=mean, std=(1 / 255,) * 3, channels="BGR")


def _keras_hub(network: WeightLayers) -> Rows:
    block = "stack{s0}_block{b0}_"
    deep = "stem1/conv" in network.by_path
    return {
        "stem1/conv": ("conv1_conv",),
        "stem1/norm": ("conv1_bn",),
        "stem2/conv": ("conv2_conv",),
        "stem2/norm": ("conv2_bn",),
        "stem/conv": ("conv3_conv" if deep else "conv1_conv",),
        "stem/norm": ("conv3_bn" if deep else "conv1_bn",),
        BLOCK + "/preactivation/norm": (block + "pre_activation_bn",),
        BLOCK + CONV: (block + "{c}_conv",),
        BLOCK + NORM: (block + "{c}_bn",),
        BLOCK + "/projection/conv": (block + "0_conv",),
        BLOCK + "/projection/norm": (block + "0_bn",),
        "final_norm/norm": ("post_bn",),
        HEAD: ("predictions",),
    }


def _own(network: WeightLayers) -> Rows:
    return {re.escape(path): (path,) for path in network.by_path}


OWN = Layout("resnet-keras", "keras", _own)
TORCH_RESNET = Layout("torchvision, timm and PyTorch CIFAR ResNets", "torch", _torch_resnet, check=_check_stride_in_3x3)
TIMM_V2 = Layout("timm's pre-activation ResNets", "torch", _timm_resnetv2, check=_check_stride_in_3x3)
TORCH_VGG = Layout("torchvision's VGG", "torch", _torch_vgg)
TORCH_DENSENET = Layout("torchvision's DenseNet", "torch", _torch_densenet)
TIMM_CONVNEXT = Layout("timm's ConvNeXt", "torch", timm_convnext, check=_check_pre_norm)
TIMM_VIT = Layout("timm's ViT", "torch", timm_vit, check=_check_pre_norm)
TRANSFORMERS = Layout("Hugging Face transformers", "torch", _transformers)
KERAS_APPLICATIONS = Layout(
    "keras.applications",
    "keras",
    _keras_applications,
    epsilon=1.001e-5,
    check=_check_keras_applications,
    card=_keras_applications_card,
)
LAYOUTS = (
    OWN,
    TORCH_RESNET,
    TIMM_V2,
    Layout("PyTorch CIFAR ResNets with blocks in one list", "torch", _torch_flat, check=_check_flat),
    Layout("PyTorch pre-activation ResNets", "torch", _torch_preactivation, check=_check_stride_in_3x3),
    TRANSFORMERS,
    TORCH_VGG,
    TORCH_DENSENET,
    TIMM_CONVNEXT,
    TIMM_VIT,
    Layout("torchvision's ConvNeXt", "torch", torchvision_convnext, check=_check_pre_norm, scale_axes=3),
    Layout("torchvision's ViT", "torch", torchvision_vit, check=_check_pre_norm),
    KERAS_APPLICATIONS,
    Layout("transformers' ConvNeXt", "torch", transformers_convnext, check=_check_pre_norm),
    Layout("transformers' ViT", "torch", transformers_vit, check=_check_pre_norm),
    Layout(
        "keras.applications' ConvNeXt",
        "keras",
        keras_applications_convnext,
        check=_check_pre_norm,
        grouped=True,
        card=_keras_applications_card,
    ),
    Layout("KerasHub", "keras", _keras_hub, check=_check_stride_in_3x3),
)
