"""ViT: attention, tokens and positions by their definitions, and what the other networks' tools make of the network."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from recomputed import check_recomputation
from small import randomise
from test_convnext import mlp, normed, values

import resnet_keras as rk
from resnet_keras.config.train import Optimizer
from resnet_keras.errors import UsageError
from resnet_keras.models.layer_norm_specs import vit_spec
from resnet_keras.models.norm_blocks import AttentionBlock, EncoderBlock
from resnet_keras.models.registry import names_of
from resnet_keras.models.tokens import SelfAttention, Tokens, resampling
from resnet_keras.training.optimizers import parameter_groups

RNG = np.random.default_rng(0)
SMALL: dict[str, Any] = {"blocks": 2, "width": 12, "heads": 3, "patch_size": 4, "image_size": 16}


def small(**options: Any) -> keras.Model:
    return rk.build_vit("ti16", **{**SMALL, "classes": 3, "input_shape": (16, 16, 3), **options})


def attention(x: np.ndarray, heads: int) -> np.ndarray:
    """From its definition, a head after the other, on queries, keys and values side by side."""
    parts = np.split(x, 3 * heads, axis=-1)
    found = []
    for head in range(heads):
        query, key, value = parts[head], parts[heads + head], parts[2 * heads + head]
        scores = np.exp(query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1]))
        found.append(scores / scores.sum(-1, keepdims=True) @ value)
    return np.concatenate(found, -1)


def attended(x: np.ndarray, w: dict[str, np.ndarray], heads: int) -> np.ndarray:
    y = attention(x @ w["qkv/kernel"] + w["qkv/bias"], heads)
    return y @ w["project/kernel"] + w["project/bias"]


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_the_block_is_its_two_equations(placement: str) -> None:
    block = EncoderBlock(norm_placement=placement, layer_scale=0.1, heads=3, expansion=2)
    x = RNG.normal(size=(2, 7, 12)).astype("float32")
    block(x)
    randomise(block)  # type: ignore[arg-type]
    first, second = (values(layer) for layer in block.layers)
    if placement == "pre":
        y = x + first["scale/gamma"] * attended(normed(x, first), first, 3)
        y = y + second["scale/gamma"] * mlp(normed(y, second), second)
    else:
        y = normed(x + first["scale/gamma"] * attended(x, first, 3), first)
        y = normed(y + second["scale/gamma"] * mlp(y, second), second)
    np.testing.assert_allclose(block(x), y, atol=5e-5)
    order = ["norm", "qkv", "attention", "project", "scale"]
    order = order if placement == "pre" else [*order[1:], "norm"]
    assert [layer.name for layer in block.layers[0].layers] == order


@pytest.mark.parametrize("size", [(4, 4), (6, 9), (3, 5)])
def test_positions_are_interpolated_as_an_image_is(size: tuple[int, int]) -> None:
    layer = Tokens(4)
    x = RNG.normal(size=(2, *size, 5)).astype("float32")
    layer(x)
    randomise(layer)  # type: ignore[arg-type]
    tokens = layer(x).numpy()
    positions = layer.positions.numpy()
    grid = tf.image.resize(positions[1:].reshape(4, 4, 5), size, "bicubic", antialias=True).numpy()
    np.testing.assert_allclose(tokens[:, 1:], (x + grid).reshape(2, -1, 5), atol=1e-5)
    np.testing.assert_allclose(tokens[:, 0], np.tile(layer.class_token.numpy() + positions[0], (2, 1)), rtol=1e-6)
    assert layer.compute_output_shape(x.shape) == tokens.shape
    np.testing.assert_array_equal(resampling(4, 4, "float32"), np.eye(4))
    np.testing.assert_allclose(resampling(7, 3, "float32").numpy().sum(1), np.ones(7), rtol=1e-6)


def test_parts_and_shapes() -> None:
    model = small()
    names = ["image", "card", "stem", "stage1_block1", "stage1_block2", "final_norm", "token_pool"]
    assert [layer.name for layer in model.layers] == [*names, "logits", "predictions"]
    assert model.get_layer("stem").output.shape == (None, 1 + 16, 12)
    assert small(include_top=False).output_shape == (None, 17, 12)
    assert small(include_top=False, pool="mean").output_shape == (None, 16, 12)
    assert small(norm_placement="post").layers[5].name == "token_pool"
    rates = [layer.spec.drop_rate for layer in small(stochastic_depth=0.2).layers[3:5]]
    assert rates == [0, 0.2]
    for layer in model.layers[2:]:
        assert layer.compute_output_shape(layer.input.shape) == layer.output.shape


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_what_is_pooled(pool: str) -> None:
    x = RNG.normal(size=(2, 16, 16, 3)).astype("float32")
    tokens = small(include_top=False, pool=pool)
    randomise(tokens)
    y = tokens(x).numpy()
    patches = y[:, 1:] if pool == "token" else y
    expected = {"avg": patches.mean(1), "max": patches.max(1), "token": y[:, 0]}
    for pooling in ("avg", "max", *(["token"] if pool == "token" else [])):
        pooled = small(include_top=False, pool=pool, pooling=pooling)
        pooled.set_weights(tokens.get_weights())
        np.testing.assert_allclose(pooled(x), expected[pooling], atol=1e-5)
    head = small(pool=pool, classifier_activation=None)
    head.set_weights([*tokens.get_weights(), *(w.numpy() for w in head.get_layer("logits").weights)])
    read = expected["token" if pool == "token" else "avg"]
    np.testing.assert_allclose(head(x), read @ head.get_layer("logits").kernel.numpy(), atol=1e-5)


def test_other_image_sizes_have_the_same_weights() -> None:
    free, larger = small(input_shape=(None, None, 3)), small(input_shape=(20, 29, 3))
    randomise(free)
    larger.set_weights(free.get_weights())
    same = small()
    same.set_weights(free.get_weights())
    for model, size in ((larger, (20, 29)), (same, (16, 16))):
        x = RNG.normal(size=(2, *size, 3)).astype("float32")
        np.testing.assert_allclose(free(x), model(x), atol=1e-6)
    pyramid = rk.feature_pyramid(free)
    x = RNG.normal(size=(2, 20, 29, 3)).astype("float32")
    maps = pyramid(x)
    assert {name: tuple(m.shape) for name, m in maps.items()} == {"stem": (2, 5, 7, 12), "stage1": (2, 5, 7, 12)}
    tokens = keras.Model(free.input, free.get_layer("final_norm").output)(x).numpy()
    np.testing.assert_array_equal(maps["stage1"].numpy().reshape(2, 35, 12), tokens[:, 1:])


def test_positions_of_our_own_files_are_interpolated(tmp_path: Path) -> None:
    """To a network of more patches, as those of others: what fine-tuning at another size starts from."""
    first, larger = (small(image_size=side, input_shape=(24, 24, 3)) for side in (16, 24))
    first.save(tmp_path / "first.keras")
    rk.load_weights(larger, tmp_path / "first.keras")
    taps = np.asarray(resampling(6, 4, "float32"))
    before, after = (net.get_layer("stem").layers[-1].positions.numpy() for net in (first, larger))
    np.testing.assert_array_equal(after[0], before[0])
    expected = np.einsum("ig,jh,ghc->ijc", taps, taps, before[1:].reshape(4, 4, -1))
    np.testing.assert_allclose(after[1:], expected.reshape(36, -1), atol=1e-6)
    images = RNG.random((2, 24, 24, 3), "float32")
    np.testing.assert_allclose(larger(images), first(images), atol=1e-6)


def test_stochastic_depth_rises_or_is_the_same_for_all_blocks() -> None:
    for by, expected in (("block", [0, 0.2]), ("none", [0.2, 0.2])):
        net = small(stochastic_depth=0.2, stochastic_depth_by=by)
        rates = [layer.spec.drop_rate for layer in net.layers if isinstance(layer, EncoderBlock)]
        assert rates == pytest.approx(expected)


def test_freezing_layer_decay_and_weight_decay() -> None:
    model = small(layer_scale=1e-4)
    assert rk.freeze(model, "stage1_block1") == ["stem", "stage1_block1"]
    assert rk.unfreeze(model, "stage1_block2", norms=True) == ["stage1_block2", "final_norm", "logits"]
    assert rk.freeze_norms(model) == 5
    rk.unfreeze(model, norms=True)
    groups = parameter_groups(Optimizer(layer_decay=0.5, weight_decay=0.1), model.trainable_weights)
    of = {w.path: group for w, group in zip(model.trainable_weights, groups, strict=True)}
    assert of["stage1_block1/attention/qkv/kernel"].rate == of["stage1_block1/mlp/scale/gamma"].rate == 0.125
    assert of["stem/conv/kernel"].rate == of["stem/tokens/positions"].rate == 0.0625
    assert {path for path, group in of.items() if group.decay} == {p for p in of if p.endswith("kernel")}


def test_a_recomputed_block_has_the_same_gradients() -> None:
    x = tf.constant(RNG.normal(size=(2, 5, 8)), tf.float32)
    check_recomputation(EncoderBlock(heads=2), x, 1e-4)


@pytest.mark.parametrize("options", [{"pool": "mean", "layer_scale": 0.1}, {"dtype": "mixed_bfloat16"}])
def test_it_comes_back_from_its_file(options: dict[str, Any], tmp_path: Path) -> None:
    model = small(**options)
    randomise(model)
    model.save(tmp_path / "a.keras")
    again = rk.load_model(tmp_path / "a.keras")
    x = RNG.normal(size=(2, 16, 16, 3)).astype("float32")
    np.testing.assert_array_equal(again(x), model(x))
    twin = small(**options, input_shape=(24, 24, 3))
    rk.load_weights(twin, tmp_path / "a.keras")
    for ours, theirs in zip(twin.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_of_other_heads_are_refused(tmp_path: Path) -> None:
    """Their shapes are the same."""
    two = small(heads=2)
    two.save(tmp_path / "a.keras")
    two.save_weights(tmp_path / "a.weights.h5")
    for name in ("a.keras", "a.weights.h5"):
        with pytest.raises(UsageError, match="heads"):
            rk.load_weights(small(), tmp_path / name)


def test_multiply_adds_by_hand() -> None:
    tokens, width = 1 + 16, 12
    block = 12 * width**2 * tokens + 2 * tokens**2 * width
    assert rk.complexity(small()).macs == 16 * (4 * 4 * 3) * width + 2 * block + 3 * width
    assert SelfAttention(3).compute_output_shape((None, 5, 36)) == (None, 5, 12)


def test_grad_cam_sees_the_patches() -> None:
    model = small(include_preprocessing=True)
    randomise(model)
    pixels = RNG.integers(0, 256, (16, 16, 3)).astype("uint8")
    explanation = rk.explain(model, pixels)
    assert explanation.map_size == (4, 4)
    assert explanation.heat.shape == (16, 16)


def test_a_spec_finds_its_name() -> None:
    assert names_of(vit_spec("s16", stochastic_depth=0.1)) == ["vit_s16"]
    assert names_of(vit_spec("s16", layer_scale=1e-6)) == names_of(vit_spec("s16", pool="mean")) == []
    assert vit_spec("b32").total_stride == 32


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: rk.build_vit("h14"), "unknown size 'h14'; choose from ti16, s16, b16, b32, l16"),
        (lambda: small(depth=3), "unknown argument 'depth'"),
        (lambda: small(se_ratio=0.1), "se_ratio is an option of ResNets; a ViT has no such part"),
        (lambda: small(heads=5), "heads must divide the width, 12, not be 5"),
        (lambda: small(blocks=0), "blocks must be at least 1"),
        (lambda: small(image_size=18), "patch_size must divide the image_size, 18, not be 4"),
        (lambda: small(pool="both"), "unknown pool 'both'; choose from token, mean"),
        (lambda: small(include_top=False, pooling="mean"), "unknown pooling 'mean'; choose from avg, max, token"),
        (lambda: small(include_top=False, pool="mean", pooling="token"), "pooling='token' belongs to pool='token'"),
        (lambda: rk.build_cifar_resnet(20, include_top=False, pooling="token"), "unknown pooling 'token'"),
        (lambda: small(input_shape=(3, 16, 3)), "input 3x16 is too small: this net divides each side by 4"),
        (lambda: small(weights="imagenet"), "there are no 'imagenet' weights for vit_ti16"),
    ],
)
def test_refusals(build: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()


def test_attention_alone_is_a_block_too() -> None:
    block = AttentionBlock(heads=2, name="block")
    x = RNG.normal(size=(1, 4, 8)).astype("float32")
    block(x)
    shortcut, branch = block.terms(x, False)
    np.testing.assert_array_equal(shortcut, x)
    np.testing.assert_allclose(block(x), x + branch, rtol=1e-6)
