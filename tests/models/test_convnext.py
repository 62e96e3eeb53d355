"""ConvNeXt: the block by its definition, the network's parts, and what the other networks' tools make of them."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from recomputed import check_recomputation
from small import randomise

import resnet_keras as rk
from resnet_keras.config.train import Optimizer
from resnet_keras.errors import UsageError
from resnet_keras.models.layer_norm_specs import convnext_spec
from resnet_keras.models.norm_blocks import ConvNeXtBlock, NormResidual, Patches
from resnet_keras.models.registry import names_of
from resnet_keras.training.optimizers import parameter_groups

RNG = np.random.default_rng(0)
SMALL: dict[str, Any] = {"blocks": (1, 2, 1), "widths": (8, 12, 16), "patch_size": 2, "input_shape": (16, 17, 3)}


def small(**options: Any) -> keras.Model:
    return rk.build_convnext("tiny", **{**SMALL, "classes": 3, **options})


def values(layer: keras.layers.Layer) -> dict[str, np.ndarray]:
    """Of its weights, by layer and name."""
    return {"/".join(w.path.split("/")[-2:]): w.numpy().astype("float64") for w in layer.weights}


def normed(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    """Layer norm from its definition: over the channels of each position."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * w["norm/gamma"] + w["norm/beta"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def mlp(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    hidden = gelu(x @ w["expand/kernel"] + w["expand/bias"])
    return hidden @ w["project/kernel"] + w["project/bias"]


def depthwise(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    kernel = w["depthwise/kernel"][..., 0]
    side, (height, width) = kernel.shape[0], x.shape[1:3]
    padded = np.pad(x, ((0, 0), (side // 2, side // 2), (side // 2, side // 2), (0, 0)))
    taps = [(row, column) for row in range(side) for column in range(side)]
    return w["depthwise/bias"] + sum(padded[:, r : r + height, c : c + width] * kernel[r, c] for r, c in taps)


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_the_block_is_its_equation(placement: str) -> None:
    block = ConvNeXtBlock(norm_placement=placement, layer_scale=1e-6, kernel_size=5, expansion=2)
    x = RNG.normal(size=(2, 6, 5, 8)).astype("float32")
    block(x)
    randomise(block)  # type: ignore[arg-type]
    w = values(block)
    if placement == "pre":
        expected = x + w["scale/gamma"] * mlp(normed(depthwise(x, w), w), w)
    else:
        expected = normed(x + w["scale/gamma"] * mlp(depthwise(x, w), w), w)
    np.testing.assert_allclose(block(x), expected, atol=2e-5)
    names = ["depthwise", "norm", "expand", "activation", "project", "scale"]
    names = names if placement == "pre" else [*(name for name in names if name != "norm"), "norm"]
    assert [layer.name for layer in block.layers] == names


def test_layer_scale_starts_small_and_may_be_none() -> None:
    x = RNG.normal(size=(1, 4, 4, 8)).astype("float32")
    scaled, plain = ConvNeXtBlock(layer_scale=1e-6), ConvNeXtBlock()
    plain(x)
    np.testing.assert_allclose(scaled(x), x, atol=1e-4)
    assert set(values(scaled)) - set(values(plain)) == {"scale/gamma"}
    np.testing.assert_allclose(values(scaled)["scale/gamma"], np.full(8, 1e-6), rtol=1e-6)


@pytest.mark.parametrize("shape", [(2000, 2, 2, 3), (2000, 4, 3)])
def test_stochastic_depth_drops_whole_branches(shape: tuple[int, ...]) -> None:
    class Identity(NormResidual):
        def function(self, channels: int) -> list[keras.layers.Layer]:
            return []

    block = Identity(drop_rate=0.25)
    x = RNG.normal(size=shape).astype("float32")
    block(x)  # builds it
    branch = block(x, training=True) - x
    dropped = np.all(np.abs(branch) < 1e-6, axis=tuple(range(1, len(shape))))
    assert dropped.mean() == pytest.approx(0.25, abs=0.04)  # 4 standard errors of 2,000 draws
    np.testing.assert_allclose(branch[~dropped], (block(x) - x)[~dropped] / 0.75, atol=1e-5)


def test_patches_are_squares() -> None:
    layer = Patches(5, 3, "after")
    x = RNG.normal(size=(2, 8, 6, 4)).astype("float32")  # two rows are left over
    layer(x)
    randomise(layer)  # type: ignore[arg-type]
    w = values(layer)
    squares = x[:, :6].reshape(2, 2, 3, 2, 3, 4).transpose(0, 1, 3, 2, 4, 5)
    expected = np.einsum("nijhwc,hwcf->nijf", squares, w["conv/kernel"]) + w["conv/bias"]
    np.testing.assert_allclose(layer(x), normed(expected, w), atol=1e-4)
    assert layer.compute_output_shape(x.shape) == (2, 2, 2, 5)


def test_parts_and_shapes() -> None:
    model = small()
    assert [layer.name for layer in model.layers] == [
        "image",
        "card",
        "stem",
        "stage1_block1",
        "stage2_downsample",
        "stage2_block1",
        "stage2_block2",
        "stage3_downsample",
        "stage3_block1",
        "avg_pool",
        "head_norm",
        "logits",
        "predictions",
    ]
    rates = [layer.spec.drop_rate for layer in small(stochastic_depth=0.3).layers if isinstance(layer, ConvNeXtBlock)]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3])
    assert small(include_top=False).output_shape == (None, 2, 2, 16)
    assert small(include_top=False, pooling="max").output_shape == (None, 16)
    maps = rk.feature_pyramid(model)(np.zeros((1, 16, 17, 3), "float32"))
    assert {name: tuple(m.shape[1:]) for name, m in maps.items()} == {
        "stem": (8, 8, 8),
        "stage1": (8, 8, 8),
        "stage2": (4, 4, 12),
        "stage3": (2, 2, 16),
    }
    for layer in model.layers[2:]:
        assert layer.compute_output_shape(layer.input.shape) == layer.output.shape


def test_freezing_and_layer_decay_go_by_blocks() -> None:
    model = small()
    assert rk.freeze(model, "stage2") == [layer.name for layer in model.layers[2:7]]
    assert rk.unfreeze(model, "stage2_downsample")[0] == "stage2_downsample"
    assert rk.freeze_norms(model) == 8  # the stem's, of four blocks, two downsamplings and the head
    rk.unfreeze(model, norms=True)
    groups = parameter_groups(Optimizer(layer_decay=0.5, weight_decay=0.1), model.trainable_weights)
    of = {w.path: group for w, group in zip(model.trainable_weights, groups, strict=True)}
    assert of["logits/kernel"].rate == 1
    assert of["stage3_block1/depthwise/kernel"].rate == of["stage3_block1/scale/gamma"].rate == 0.25
    assert of["stem/conv/kernel"].rate == 0.5**8
    assert {path for path, group in of.items() if group.decay} == {p for p in of if p.endswith("kernel")}


def test_a_recomputed_block_has_the_same_gradients() -> None:
    x = tf.constant(RNG.normal(size=(2, 4, 4, 8)), tf.float32)
    check_recomputation(ConvNeXtBlock(layer_scale=1e-6), x, 1e-5)


@pytest.mark.parametrize("options", [{"norm_placement": "post", "layer_scale": 0.0}, {"dtype": "mixed_bfloat16"}])
def test_it_comes_back_from_its_file(options: dict[str, Any], tmp_path: Path) -> None:
    model = small(**options)
    randomise(model)
    model.save(tmp_path / "a.keras")
    again = rk.load_model(tmp_path / "a.keras")
    x = RNG.normal(size=(2, 16, 17, 3)).astype("float32")
    np.testing.assert_array_equal(again(x), model(x))
    twin = small(**options)
    rk.load_weights(twin, tmp_path / "a.keras")
    np.testing.assert_array_equal(twin(x), model(x))


def test_weights_of_the_other_placement_are_refused(tmp_path: Path) -> None:
    post = small(norm_placement="post")
    post.save(tmp_path / "a.keras")
    post.save_weights(tmp_path / "a.weights.h5")
    for source, message in (("a.keras", "norm_placement of stage1_block1 is post"), ("a.weights.h5", "norm_placement")):
        with pytest.raises(UsageError, match=message):
            rk.load_weights(small(), tmp_path / source)


def test_a_spec_finds_its_name() -> None:
    assert names_of(convnext_spec("tiny", stochastic_depth=0.3, layer_scale=0.1)) == ["convnext_tiny"]
    assert names_of(convnext_spec("tiny", layer_scale=0.0)) == []
    assert convnext_spec("large").total_stride == 32
    assert convnext_spec("tiny", blocks="1,1", widths="8,16", patch_size=1).total_stride == 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: rk.build_convnext("huge"), "unknown size 'huge'; choose from tiny, small, base, large"),
        (lambda: rk.build_convnext(50), "unknown size '50'"),  # type: ignore[arg-type]
        (lambda: rk.build_convnext("tiny", se_ratio=0.1), "se_ratio is an option of ResNets; a ConvNeXt has no such"),
        (lambda: rk.build_convnext("tiny", kernel=3), "unknown argument 'kernel'.*kernel_size"),
        (lambda: rk.build_convnext("tiny", kernel_size=4), "kernel_size must be odd, not 4"),
        (
            lambda: rk.build_convnext("tiny", norm_placement="mid"),
            "unknown norm_placement 'mid'; choose from pre",
        ),
        (lambda: rk.build_convnext("tiny", layer_scale=-1.0), "layer_scale must be at least 0"),
        (lambda: rk.build_convnext("tiny", patch_size=0), "patch_size must be at least 1"),
        (lambda: rk.build_convnext("tiny", stochastic_depth=1.0), "stochastic_depth must be at least 0 and below 1"),
        (lambda: rk.build_convnext("tiny", input_shape=(31, 32, 3)), "divides each side by 32"),
        (lambda: rk.build_convnext("tiny", activation="ruler"), "unknown activation 'ruler'"),
        (lambda: rk.build_convnext("tiny", widths=(8, 16)), "blocks and widths need one positive number a stage"),
        (lambda: small(weights="imagenet"), "there are no 'imagenet' weights for convnext_tiny"),
    ],
)
def test_refusals(build: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()
