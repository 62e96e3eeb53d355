"""DenseNet: what its layers compute, its shapes, its refusals."""

import keras
import numpy as np
import pytest
from small import randomise

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.models.blocks import DenseLayer, Transition

RNG = np.random.default_rng(0)


def test_a_dense_layer_is_its_equation() -> None:
    layer = DenseLayer(4)
    inputs = keras.Input((6, 5, 8))
    model = keras.Model(inputs, layer(inputs))
    randomise(model)
    x = RNG.normal(size=(2, 6, 5, 8)).astype("float32")
    branch = x
    for sublayer in layer.layers:
        branch = sublayer(branch)
    np.testing.assert_array_equal(model(x), np.concatenate([x, branch], axis=-1))
    assert [sub.name for sub in layer.layers] == ["preactivation", "conv1", "conv2"]
    assert layer.layers[1].spec.filters == 16
    plain = DenseLayer(4, bottleneck=False)
    plain.build((None, 6, 5, 8))
    assert [sub.name for sub in plain.layers] == ["preactivation", "conv1"]


@pytest.mark.parametrize("size", [6, 7])
def test_a_transition_halves(size: int) -> None:
    x = RNG.normal(size=(1, size, size, 8)).astype("float32")
    assert Transition(4)(x).shape == (1, size // 2, size // 2, 4)


def test_densenet_grows_and_is_compressed() -> None:
    model = rk.build_densenet(121)
    widths = [model.get_layer(name).output.shape[-1] for name in ("stem", "stage1_layer6", "transition1", "final_norm")]
    assert widths == [64, 64 + 6 * 32, 128, 1024]
    plain = rk.build_densenet(40, bottleneck=False, stem="cifar", input_shape=(32, 32, 3), classes=10)
    # Huang et al. 2017, Table 2: DenseNet of 40 layers, k = 12, has 1.0M parameters
    assert round(rk.complexity(plain).trainable_parameters / 1e6, 1) == 1.0
    assert plain.name == "densenet40"
    assert plain.get_layer("transition1").output.shape[1:] == (16, 16, 16 + 12 * 12)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: rk.build_densenet(121, include_top=False, pooling="avg"), (None, 1024)),
        pytest.param(
            lambda: rk.build_densenet(169, include_top=False, input_shape=(64, 70, 3)),
            (None, 2, 2, 1664),
            marks=pytest.mark.slow,  # 2 s
        ),
        (lambda: rk.create_model("cifar_densenet_bc_100_12"), (None, 10)),
    ],
)
def test_shapes(build, shape: tuple) -> None:
    assert build().output_shape == shape


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: rk.build_densenet(121, pooling="mean"), "unknown pooling 'mean'"),
        (lambda: rk.build_densenet(121, depth_multiplier=2), "unknown argument 'depth_multiplier'"),
        (lambda: rk.build_densenet(121, activation="ruler"), "unknown activation 'ruler'"),
    ],
)
def test_refusals(build, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()
