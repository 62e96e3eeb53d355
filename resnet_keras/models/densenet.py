"""DenseNet, which concatenates where a ResNet adds."""

from typing import Any

import keras

from resnet_keras.models.blocks import DenseLayer, Transition
from resnet_keras.models.builder import ModelOptions, add_head, global_pool, in_its_dtype, make_input, split_arguments
from resnet_keras.models.layers import ConvNorm, NormActivation
from resnet_keras.models.pooling import StemMaxPooling
from resnet_keras.models.spec import DenseNetSpec, densenet_spec


def build_densenet(depth: int, **arguments: Any) -> keras.Model:
    """A DenseNet (Huang et al. 2017): every layer reads the outputs of all earlier ones of its stage.

    It takes images, float `[N, H, W, C]`, and gives probabilities, float32 `[N, classes]`. Layers: `stem`, `stem_pool`,
    `stage1_layer1` ..., `transition1` ..., `final_norm`, `avg_pool`, `logits`, `predictions`.

    Args:
        depth: 121, 161, 169, 201 or 264; with `stem="cifar"`, 6n+4 (without bottlenecks 3n+4).
        **arguments: the arguments of `build_resnet` that are not of its spec (`classes`, `weights`, ...), and any field
            of `DenseNetSpec` (`growth_rate`, `bottleneck`, `compression`, `se_ratio`, `norm`, ...).

    Raises:
        UsageError: (a ValueError) for an unknown depth or argument, or too small an input.

    Examples:
        >>> model = rk.build_densenet(40, stem="cifar", growth_rate=12, input_shape=(32, 32, 3), classes=10)
        >>> model.output_shape
        (None, 10)
    """
    options, fields = split_arguments(f"densenet{depth}", arguments)
    return _assemble(densenet_spec(depth, **fields), options)


@in_its_dtype
def _assemble(spec: DenseNetSpec, options: ModelOptions) -> keras.Model:
    cifar = spec.stem == "cifar"
    inputs, x = make_input(spec, options, 32 if cifar else 224)
    kept: dict[str, Any] = {"norm": spec.norm, "activation": spec.activation}
    kept["weight_standardization"] = spec.weight_standardization
    if cifar:
        x = ConvNorm(spec.stem_width, 3, **{**kept, "norm": None, "activation": None}, name="stem")(x)
    else:
        x = StemMaxPooling(name="stem_pool")(ConvNorm(spec.stem_width, 7, 2, **kept, name="stem")(x))
    layer: dict[str, Any] = {"bottleneck": spec.bottleneck, "se_ratio": spec.se_ratio, "dropout": spec.layer_dropout}
    for stage, layers in enumerate(spec.layers, start=1):
        for number in range(1, layers + 1):
            x = DenseLayer(spec.growth_rate, **layer, **kept, name=f"stage{stage}_layer{number}")(x)
        if stage < len(spec.layers):
            x = Transition(max(1, int(x.shape[-1] * spec.compression)), **kept, name=f"transition{stage}")(x)
    x = NormActivation(spec.norm, spec.activation, name="final_norm")(x)
    return add_head(spec, options, inputs, global_pool(x, options))
