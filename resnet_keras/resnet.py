"""Stem, stages, head: `build_resnet` and `build_cifar_resnet`."""

import warnings
from pathlib import Path
from typing import Any

import keras

from resnet_keras.blocks import block_from_spec
from resnet_keras.card import ModelCard
from resnet_keras.errors import UsageError, reason, require, unknown
from resnet_keras.layers import ConvNorm, NormActivation, Preprocessing, StemMaxPooling
from resnet_keras.specs import ResNetSpec, cifar_spec, imagenet_spec


def build_resnet(
    depth: int,
    variant: str = "v1.5",
    *,
    include_top: bool = True,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    include_preprocessing: bool | ModelCard = False,
    name: str | None = None,
    **spec: Any,
) -> keras.Model:
    """A residual network for ImageNet-sized pictures.

    The arguments that keras.applications has too mean the same. Layers: `stem`, `stem_pool`, `stage1_block1` ...,
    `avg_pool`, `logits`, `predictions`.

    Args:
        depth: 18, 34, 50, 101, 152 or 200 (He et al. 2015, Table 1; 2016 for 200).
        variant: "v1" (stride in the bottleneck's first 1x1, as published), "v1.5" (in its 3x3, as everyone trains
            it), "v2" (pre-activation) or "d" (He et al. 2018, ResNet-D).
        include_top: with the classifier; without it the output is the last stage, `[N, H/32, W/32, C]`.
        weights: None, or a `.weights.h5` file that `save_weights` of the same network wrote.
        input_tensor: a Keras tensor to build on, instead of a new input.
        input_shape: `(height, width, channels)`, (224, 224, 3) by default (sides None without the top); sides may be
            None, and must be 32 or more. Float pixels, normalised by the caller unless `include_preprocessing`.
        pooling: without the top: None, "avg" or "max" over the last stage, `[N, C]`.
        classes: outputs of the classifier.
        classifier_activation: "softmax", or None for logits. The outputs are float32 under every policy.
        include_preprocessing: True to take raw RGB pixels, 0 to 255, and normalise by ImageNet's mean and deviation;
            a `ModelCard` to normalise by another.
        name: of the model; "resnet50" and so on by default.
        **spec: any field of `ResNetSpec`, such as `stem="cifar"`, `shortcut="A"`, `se_ratio=1/16`.

    Raises:
        UsageError: (a ValueError) for an unknown depth, variant or field, or too small an input.
    """
    return assemble(
        imagenet_spec(depth, variant, **spec),
        default_side=224 if include_top else None,
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        include_preprocessing=include_preprocessing,
        name=name or f"resnet{depth}" + ("" if variant == "v1.5" else f"_{variant}"),
    )


def build_cifar_resnet(
    depth: int,
    variant: str = "v1",
    *,
    shortcut: str = "A",
    classes: int = 10,
    input_shape: tuple[int | None, ...] | None = (32, 32, 3),
    include_top: bool = True,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    pooling: str | None = None,
    classifier_activation: str | None = "softmax",
    include_preprocessing: bool | ModelCard = False,
    name: str | None = None,
    **spec: Any,
) -> keras.Model:
    """A residual network for 32x32 pictures, in three stages of 16, 32 and 64 filters (He et al. 2015, section 4.2).

    Args:
        depth: 6n+2 for "v1" (20, 32, 44, 56, 110, 1202 in the paper), 9n+2 for "v2" (164, 1001).
        variant: "v1" (basic blocks) or "v2" (pre-activation bottlenecks, He et al. 2016; that paper's code uses
            `shortcut="B"`; `block="basic"` gives its 110-layer net).
        shortcut: "A" (no parameters, the paper's choice), "B", "C", "D" or "none" for the plain net.
        input_shape: `(height, width, channels)`; sides may be None, and must be 4 or more.
        classes, include_top, weights, input_tensor, pooling, classifier_activation, include_preprocessing, name,
            **spec: as in `build_resnet`.

    Raises:
        UsageError: (a ValueError) for a depth that is not 6n+2 or 9n+2 (it names the nearest), an unknown variant or
            field, or too small an input.
    """
    kind = ("plain" if shortcut == "none" else "resnet") if variant == "v1" else f"resnet_{variant}_"
    return assemble(
        cifar_spec(depth, variant, shortcut=shortcut, **spec),
        default_side=32 if include_top else None,
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        include_preprocessing=include_preprocessing,
        name=name or f"cifar_{kind}{depth}",
    )


def assemble(
    spec: ResNetSpec,
    *,
    default_side: int | None,
    include_top: bool,
    weights: str | Path | None,
    input_tensor: Any,
    input_shape: tuple[int | None, ...] | None,
    pooling: str | None,
    classes: int,
    classifier_activation: str | None,
    include_preprocessing: bool | ModelCard,
    name: str,
) -> keras.Model:
    """The functional model of a spec: stem -> stages -> head."""
    if pooling not in (None, "avg", "max"):
        raise unknown("pooling", pooling, ["avg", "max", None])
    if classifier_activation not in (None, "linear", "softmax", "sigmoid"):
        raise unknown("classifier_activation", classifier_activation, ["softmax", "sigmoid", None])
    try:
        keras.activations.get(spec.activation)
    except ValueError as error:
        raise UsageError(f"unknown activation {spec.activation!r}; give Keras's name of one, such as relu") from error
    require(not include_top or classes >= 1, "classes", "at least 1", classes)
    inputs = _inputs(spec, input_tensor, input_shape or (default_side, default_side, 3))
    x = _normalise(inputs, include_preprocessing)
    x = _stem(spec, x)
    for stage, (blocks, filters) in enumerate(zip(spec.blocks, spec.widths, strict=True), start=1):
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = block_from_spec(spec, filters, strides, f"stage{stage}_block{block}")(x)
    if spec.preactivation:
        x = NormActivation(spec.norm, spec.activation, name="final_norm")(x)
    if include_top or pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)
    if include_top:
        x = _classifier(x, classes, classifier_activation)
    sources = keras.utils.get_source_inputs(inputs)
    model = keras.Model(sources[0] if len(sources) == 1 else sources, x, name=name)
    if weights is not None:
        load_weights_file(model, weights)
    return model


def _inputs(spec: ResNetSpec, input_tensor: Any, input_shape: tuple[int | None, ...]) -> Any:
    if input_tensor is not None and keras.backend.is_keras_tensor(input_tensor):
        inputs, input_shape = input_tensor, tuple(input_tensor.shape[1:])
    else:
        inputs = None
    if len(input_shape) != 3 or not input_shape[-1]:
        raise UsageError(f"input_shape is (height, width, channels) with the channels known, not {input_shape}")
    for side in input_shape[:2]:
        if side is not None and side < spec.total_stride:
            raise UsageError(
                f"input {input_shape[0]}x{input_shape[1]} is too small: this net divides each side by "
                f"{spec.total_stride}, so give it {spec.total_stride}x{spec.total_stride} or more"
                + ("" if spec.stem == "cifar" else ", or stem='cifar' for small pictures")
            )
    return keras.Input(input_shape, tensor=input_tensor, name="image") if inputs is None else inputs


def _normalise(x: Any, include_preprocessing: bool | ModelCard) -> Any:
    if include_preprocessing is False:
        return x
    card = ModelCard() if include_preprocessing is True else include_preprocessing
    if len(card.mean) not in (1, x.shape[-1]):
        raise UsageError(
            f"the preprocessing has {len(card.mean)} means for {x.shape[-1]} channels; "
            "give include_preprocessing=ModelCard(mean=..., std=...)"
        )
    return Preprocessing(card, name="preprocessing")(x)


def _stem(spec: ResNetSpec, x: Any) -> Any:
    # A pre-activation net normalises inside its blocks, so its one-convolution stems have neither norm nor activation.
    finish: dict[str, Any] = (
        {"norm": None} if spec.preactivation else {"norm": spec.norm, "activation": spec.activation}
    )
    if spec.stem == "cifar":
        return ConvNorm(spec.stem_width, 3, **finish, name="stem")(x)
    if spec.stem == "deep":
        half: dict[str, Any] = {"norm": spec.norm, "activation": spec.activation}
        x = ConvNorm(spec.stem_width // 2, 3, 2, **half, name="stem1")(x)
        x = ConvNorm(spec.stem_width // 2, 3, **half, name="stem2")(x)
        x = ConvNorm(spec.stem_width, 3, **finish, name="stem")(x)
    else:
        x = ConvNorm(spec.stem_width, 7, 2, **finish, name="stem")(x)
    return StemMaxPooling(name="stem_pool")(x)


def _classifier(x: Any, classes: int, activation: str | None) -> Any:
    # Softmax of bfloat16 or float16 logits loses what training needs, so the head is float32 under every policy.
    x = keras.layers.Dense(classes, kernel_initializer="he_normal", name="logits", dtype="float32")(x)
    if activation in (None, "linear"):
        return x
    return keras.layers.Activation(activation, name="predictions", dtype="float32")(x)


def load_weights_file(model: keras.Model, path: str | Path) -> None:
    """Load a `.weights.h5` file into a model. Raises `UsageError` when it is missing, broken or another network's."""
    if not str(path).endswith(".weights.h5"):
        raise UsageError(f"weights must be None or the path of a .weights.h5 file, not {str(path)!r}")
    if not Path(path).is_file():
        raise UsageError(f"no weights file at {path}")
    try:
        with warnings.catch_warnings(action="ignore"):  # Keras says in a warning what it then raises
            model.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise UsageError(f"{path} does not fit {model.name}: {reason(error)}") from error
