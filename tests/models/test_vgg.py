"""VGG: its pools, its shapes, its refusals."""

import keras
import numpy as np
import pytest
from small import randomise

import resnet_keras as rk
from resnet_keras.errors import UsageError

RNG = np.random.default_rng(0)


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
        (lambda: rk.build_vgg(11, True, classes=5, input_shape=(33, 40, 1), hidden=32), (None, 5)),
    ],
)
def test_shapes(build, shape: tuple) -> None:
    assert build().output_shape == shape


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: rk.build_vgg(16, input_shape=(31, 64, 3)), "31x64 is too small.*32x32 or more"),
        (lambda: rk.build_vgg(16, batchnorm=True), "unknown argument 'batchnorm'"),
        (
            lambda: rk.build_vgg(16, norm="instance"),
            "unknown norm 'instance'; choose from batch, sync_batch, group, group1",
        ),
    ],
)
def test_refusals(build, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()
