"""Stem, stages, head: `build_resnet` and `build_cifar_resnet`."""

from pathlib import Path
from typing import Any

import keras

from resnet_keras.models.blocks import block_from_spec
from resnet_keras.models.builder import ModelOptions, add_head, global_pool, in_its_dtype, make_input
from resnet_keras.models.card import ModelCard
from resnet_keras.models.layers import ConvNorm, NormActivation
from resnet_keras.models.pooling import BlurPool, StemMaxPooling
from resnet_keras.models.spec import ResNetSpec, cifar_spec, imagenet_spec


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
    dtype: Any = None,
    **spec: Any,
) -> keras.Model:
    """A residual network for ImageNet-sized images.

    It takes images, float `[N, H, W, C]`, and gives probabilities, float32 `[N, classes]`. The arguments that
    keras.applications has too mean the same. Layers: `stem`, `stem_pool`, `stage1_block1` ...,
    `avg_pool`, `logits`, `predictions`.

    Args:
        depth: 18, 34, 50, 101, 152 (He et al. 2015, Table 1), 200 (2016), 270, 350 or 420 (Bello et al. 2021).
        variant: "v1" (stride in the bottleneck's first 1x1, as published), "v1.5" (in its 3x3, as everyone trains
            it), "v2" (pre-activation, He et al. 2016, with the stem of timm's resnetv2.py: the first block's norm and
            ReLU follow the max-pool, in fb.resnet.torch's preresnet.lua, line 147, they precede it), "v2_slim" (as in
            TF-slim and keras.applications), "d" (He et al. 2018, ResNet-D) or "rs" (Bello et al. 2021, ResNet-RS,
            whose stochastic depth and dropout `create_model` sets).
        include_top: with the classifier; without it the output is the last stage, `[N, H/32, W/32, C]`.
        weights: None; "imagenet", for published weights of this very network; a name on the Hugging Face Hub, such
            as "timm/resnet50.a1_in1k"; "cifar10-jpeg" (see `build_cifar_resnet`); or a file that `load_weights` reads.
            The model's card says how their images were prepared.
        input_tensor: a Keras tensor to build on, instead of a new input.
        input_shape: `(height, width, channels)`, (224, 224, 3) by default (sides None without the top); sides may be
            None, and must be 32 or more. Float pixels, normalised by the caller unless `include_preprocessing`.
        pooling: without the top: None, "avg" or "max" over the last stage, `[N, C]`.
        classes: outputs of the classifier.
        classifier_activation: "softmax", or None for logits. The outputs are float32 under every policy.
        include_preprocessing: True to take raw RGB pixels, 0 to 255, and normalise by ImageNet's mean and deviation;
            the weights' own way where `weights` say one; a `ModelCard` to normalise by another.
        name: of the model; "resnet50" and so on by default.
        dtype: dtype policy of the layers, such as "mixed_bfloat16"; Keras's global one by default.
        **spec: any field of `ResNetSpec`, such as `stem="cifar"`, `shortcut="A"`, `se_ratio=1/16`.

    Raises:
        UsageError: (a ValueError) for an unknown depth, variant or field, options that cannot be together, too small an
            input, or weights that are not there or do not fit.

    Examples:
        >>> model = rk.build_resnet(18, classes=10)
        >>> model.output_shape
        (None, 10)
        >>> backbone = rk.build_resnet(18, "d", include_top=False, pooling="avg", se_ratio=1 / 16)
        >>> backbone(np.zeros((1, 64, 64, 3), "float32")).shape
        TensorShape([1, 512])
    """
    options = ModelOptions(
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        include_preprocessing=include_preprocessing,
        name=name or f"resnet{depth}" + ("" if variant == "v1.5" else f"_{variant}"),
        dtype=dtype,
    )
    return assemble(imagenet_spec(depth, variant, **spec), options, 224)


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
    dtype: Any = None,
    **spec: Any,
) -> keras.Model:
    """A residual network for 32x32 images, in three stages of 16, 32 and 64 filters (He et al. 2015, section 4.2).

    It takes images, float `[N, H, W, C]`, and gives probabilities, float32 `[N, classes]`.

    Args:
        depth: 6n+2 for "v1" (20, 32, 44, 56, 110, 1202 in the paper), 9n+2 for "v2" (164, 1001).
        variant: "v1" (basic blocks) or "v2" (pre-activation bottlenecks, He et al. 2016, with their stride in the first
            1x1, as in the authors' code: KaimingHe/resnet-1k-layers, resnet-pre-act.lua, lines 43 and 70, which uses
            `shortcut="B"`; `block="basic"` gives the paper's 110-layer net). Version 0.1 had the stride in the 3x3:
            `stride_in_1x1=False` builds that net, for weights of it.
        shortcut: "A" (no parameters, the paper's choice), "B", "C", "D" or "none" for the plain net.
        input_shape: `(height, width, channels)`; sides may be None, and must be 4 or more.
        weights: as in `build_resnet`. "cifar10-jpeg", for depth 20, comes with the package: trained by
            `cifar10-resnet20-short` on CIFAR-10 whose images went through JPEG (quality 75). It is right for 84.27 %
            of such test images (`model_card(model).metrics`), which cannot be compared with accuracies on CIFAR-10.
        classes: as in `build_resnet`, 10 by default.
        include_top: as in `build_resnet`; without it the output is the last stage, `[N, H/4, W/4, C]`.
        input_tensor: as in `build_resnet`.
        pooling: as in `build_resnet`.
        classifier_activation: as in `build_resnet`.
        include_preprocessing: as in `build_resnet`.
        name: of the model; "cifar_resnet20" and so on by default.
        dtype: as in `build_resnet`.
        **spec: any field of `ResNetSpec`.

    Raises:
        UsageError: (a ValueError) for a depth that is not 6n+2 or 9n+2 (it names the nearest), an unknown variant or
            field, or too small an input.

    Examples:
        >>> model = rk.build_cifar_resnet(20)
        >>> rk.complexity(model).trainable_parameters
        269722
        >>> trained = rk.build_cifar_resnet(20, weights="cifar10-jpeg")
        >>> rk.model_card(trained).labels[:3]
        ('airplane', 'automobile', 'bird')
    """
    kind = ("plain" if shortcut == "none" else "resnet") if variant == "v1" else f"resnet_{variant}_"
    options = ModelOptions(
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        include_preprocessing=include_preprocessing,
        name=name or f"cifar_{kind}{depth}",
        dtype=dtype,
    )
    return assemble(cifar_spec(depth, variant, shortcut=shortcut, **spec), options, 32)


@in_its_dtype
def assemble(spec: ResNetSpec, options: ModelOptions, side: int) -> keras.Model:
    """The functional model of a spec: stem -> stages -> head. `side` is the input's where the options say none."""
    inputs, x = make_input(spec, options, side)
    x = _stem(spec, x)
    blocks_before, dilation, stride = 0, 1, spec.stem_stride
    for stage, (blocks, filters) in enumerate(zip(spec.blocks, spec.widths, strict=True), start=1):
        for block in range(1, blocks + 1):
            own: dict[str, Any] = {"dilation": dilation}
            own["drop_rate"] = _drop_rate(spec, stage, blocks_before)
            strides = 2 if _is_strided(spec, stage, block) else 1
            if strides > 1 and spec.output_stride and stride >= spec.output_stride:
                own["stride_as_dilation"] = True
                dilation *= 2
            else:
                stride *= strides
            x = block_from_spec(spec, filters, strides, f"stage{stage}_block{block}", **own)(x)
            blocks_before += 1
    if spec.preactivation:
        x = NormActivation(spec.norm, spec.activation, name="final_norm")(x)
    return add_head(spec, options, inputs, global_pool(x, options))


def _drop_rate(spec: ResNetSpec, stage: int, blocks_before: int) -> float:
    if spec.stochastic_depth_by == "stage":
        return spec.stochastic_depth * (stage + 1) / (len(spec.blocks) + 1)
    return spec.stochastic_depth * blocks_before / max(1, sum(spec.blocks) - 1)


def _is_strided(spec: ResNetSpec, stage: int, block: int) -> bool:
    if spec.stride_in_last_block:
        return stage < len(spec.blocks) and block == spec.blocks[stage - 1]
    return stage > 1 and block == 1


def _stem(spec: ResNetSpec, x: Any) -> Any:
    names = ("norm", "activation", "weight_standardization", "initialization")
    inner: dict[str, Any] = {name: getattr(spec, name) for name in names}
    # A pre-activation net normalises inside its blocks, so the end of its stem has neither norm nor activation: for
    # ImageNet as timm has it (resnetv2.py), whose published weights these nets take. The authors' reference, Facebook's
    # fb.resnet.torch (models/preresnet.lua, lines 146 to 150), has norm and ReLU before the pool instead of after it.
    last = inner if not spec.preactivation else {**inner, "norm": None, "activation": None}
    width = spec.stem_width
    if spec.stem == "cifar":
        return ConvNorm(width, 3, **last, name="stem")(x)
    if spec.stem == "cifar_pool":
        x = ConvNorm(width, 3, **last, name="stem")(x)
        return keras.layers.MaxPooling2D(2, name="stem_pool")(x)
    if spec.stem == "deep_strided":
        x = ConvNorm(width // 2, 3, 2, **inner, name="stem1")(x)
        x = ConvNorm(width // 2, 3, **inner, name="stem2")(x)
        x = ConvNorm(width, 3, **inner, name="stem")(x)
        return ConvNorm(width, 3, 2, **last, antialias=spec.antialias, name="stem_pool")(x)
    if spec.stem == "deep":
        x = ConvNorm(width // 2, 3, 2, **inner, name="stem1")(x)
        x = ConvNorm(width // 2, 3, **inner, name="stem2")(x)
        x = ConvNorm(width, 3, **last, name="stem")(x)
    else:
        x = ConvNorm(width, 7, 2, **last, use_bias=spec.stem == "slim", name="stem")(x)
    edge = 0.0 if spec.stem == "slim" else float("-inf")
    x = StemMaxPooling(edge, strides=1 if spec.antialias else 2, name="stem_pool")(x)
    return BlurPool(name="stem_blur")(x) if spec.antialias else x
