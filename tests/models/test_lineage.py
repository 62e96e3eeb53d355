"""VGG and DenseNet: what their layers compute, and their shapes."""

import keras
import numpy as np
import pytest
from conftest import randomise

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
    assert layer.layers[1].filters == 16
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


def test_vgg_pools_any_map_to_seven_by_seven() -> None:
    """A map of 7x7 goes through as it is; another size is averaged over the cells that torch averages."""
    model = rk.build_vgg(11, widths=(4, 4, 8, 8, 8), hidden=16, classes=3, input_shape=(None, None, 3))
    randomise(model)
    pool = keras.Model(model.input, [model.get_layer("stage5_pool").output, model.get_layer("adaptive_pool").output])
    before, after = pool(RNG.normal(size=(1, 230, 230, 3)).astype("float32"))
    np.testing.assert_allclose(after, before, atol=1e-6)
    for size in ((320, 170), (32, 64)):
        before, after = (np.asarray(out) for out in pool(RNG.normal(size=(1, *size, 3)).astype("float32")))
        rows, columns = before.shape[1:3]
        for i in range(7):
            for j in range(7):
                row = slice(i * rows // 7, -(-(i + 1) * rows // 7))
                column = slice(j * columns // 7, -(-(j + 1) * columns // 7))
                np.testing.assert_allclose(after[0, i, j], before[0, row, column].mean((0, 1)), atol=1e-5)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: rk.build_vgg(16, include_top=False), (None, None, None, 512)),
        (lambda: rk.build_vgg(16, include_top=False, pooling="max"), (None, 512)),
        (lambda: rk.build_vgg(11, True, classes=5, input_shape=(33, 40, 1)), (None, 5)),
        (lambda: rk.build_densenet(121, include_top=False, pooling="avg"), (None, 1024)),
        (lambda: rk.build_densenet(169, include_top=False, input_shape=(64, 70, 3)), (None, 2, 2, 1664)),
        (lambda: rk.create_model("cifar_densenet_bc_100_12"), (None, 10)),
    ],
)
def test_shapes(build, shape: tuple) -> None:
    assert build().output_shape == shape


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: rk.build_vgg(16, input_shape=(31, 64, 3)), "31x64 is too small.*32x32 or more"),
        (lambda: rk.build_vgg(16, batchnorm=True), "unknown argument 'batchnorm'"),
        (lambda: rk.build_densenet(121, pooling="mean"), "unknown pooling 'mean'"),
        (lambda: rk.build_densenet(121, depth_multiplier=2), "unknown argument 'depth_multiplier'"),
        (lambda: rk.build_densenet(121, activation="ruler"), "unknown activation 'ruler'"),
        (
            lambda: rk.build_vgg(16, norm="instance"),
            "unknown norm 'instance'; choose from batch, sync_batch, group, layer",
        ),
    ],
)
def test_refusals(build, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()
