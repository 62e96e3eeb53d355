import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from small import randomise

from resnet_keras.errors import UsageError
from resnet_keras.models.blocks import BasicBlock, BottleneckBlock, ResidualBlock
from resnet_keras.models.spec import BlockSpec, imagenet_spec

RNG = np.random.default_rng(0)


def block_model(block: ResidualBlock, channels: int = 16, size: int = 8) -> keras.Model:
    inputs = keras.Input((size, size, channels))
    return keras.Model(inputs, block(inputs))


def names(block: ResidualBlock) -> list[str]:
    return [layer.name for layer in block.layers]


def test_the_block_is_its_equation() -> None:
    block = BasicBlock(16, name="block")
    model = block_model(block)
    randomise(model)
    x = RNG.normal(size=(2, 8, 8, 16)).astype("float32")
    branch = tf.constant(x)
    for layer in block.branch:
        branch = layer(branch)
    np.testing.assert_allclose(model(x), np.maximum(x + branch, 0), atol=1e-5)
    assert names(block) == ["conv1", "conv2", "activation"]


@pytest.mark.parametrize("kind", [BasicBlock, BottleneckBlock])
@pytest.mark.parametrize("preactivation", [False, True])
def test_zero_init_makes_the_block_the_identity(kind: type[ResidualBlock], preactivation: bool) -> None:
    filters = 16 // kind.expansion
    block = kind(filters, preactivation=preactivation, zero_init_gamma=True)
    x = np.abs(RNG.normal(size=(2, 8, 8, 16))).astype("float32")  # as after a ReLU
    np.testing.assert_array_equal(block_model(block)(x, training=True), x)


@pytest.mark.parametrize(
    ("options", "channels", "expected"),
    [
        ({}, 16, ["conv1", "conv2", "activation"]),
        ({"strides": 2}, 16, ["conv1", "conv2", "projection", "activation"]),
        ({"shortcut": "A", "strides": 2}, 8, ["conv1", "conv2", "shortcut", "activation"]),
        ({"shortcut": "A"}, 16, ["conv1", "conv2", "activation"]),
        ({"shortcut": "C"}, 16, ["conv1", "conv2", "projection", "activation"]),
        ({"shortcut": "D", "strides": 2}, 8, ["conv1", "conv2", "pool", "projection", "activation"]),
        ({"shortcut": "none", "strides": 2}, 8, ["conv1", "conv2", "activation"]),
        ({"preactivation": True}, 16, ["preactivation", "conv1", "conv2"]),
        ({"se_ratio": 0.25}, 16, ["conv1", "conv2", "se", "activation"]),
    ],
    ids=str,
)
def test_the_shortcut_follows_from_the_shapes(options: dict, channels: int, expected: list[str]) -> None:
    block = BasicBlock(16, **options)
    model = block_model(block, channels)
    assert names(block) == expected
    assert model.output_shape == (None, *(2 * (8 // options.get("strides", 1),)), 16)


def test_plain_block_has_no_way_round() -> None:
    block = BasicBlock(16, shortcut="none")
    model = block_model(block)
    for weight in model.weights:
        weight.assign(tf.zeros_like(weight))
    assert not np.any(model(RNG.normal(size=(1, 8, 8, 16)).astype("float32")))


def test_preactivation_projects_the_activated_input_without_norm() -> None:
    block = BottleneckBlock(8, 2, preactivation=True)
    model = block_model(block)
    randomise(model)
    x = RNG.normal(size=(2, 8, 8, 16)).astype("float32")
    activated = block.front[0](x)
    branch = activated
    for layer in block.branch:
        branch = layer(branch)
    np.testing.assert_allclose(model(x), block.bypass[-1](activated) + branch, atol=1e-4)
    assert [layer.name for layer in block.bypass[-1].layers] == ["conv"]


@pytest.mark.parametrize(("in_1x1", "strides"), [(True, [2, 1, 1]), (False, [1, 2, 1])])
def test_where_the_bottleneck_strides(in_1x1: bool, strides: list[int]) -> None:
    block = BottleneckBlock(8, 2, stride_in_1x1=in_1x1, cardinality=4, base_width=16)
    assert [c.strides for c in block.convolutions()] == strides
    assert [c.filters for c in block.convolutions()] == [8, 8, 32]
    assert block.convolutions()[1].groups == 4


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from([BasicBlock, BottleneckBlock]),
    strides=st.sampled_from([1, 2]),
    size=st.integers(2, 9),
    channels=st.sampled_from([8, 32]),
    shortcut=st.sampled_from(["A", "B", "C", "D", "none"]),
    preactivation=st.booleans(),
    se_ratio=st.sampled_from([0.0, 0.25]),
)
def test_any_combination_builds_runs_and_comes_back_from_its_config(kind, size, channels, **options) -> None:
    block = kind(8, **options)
    if options["shortcut"] == "A" and channels > 8 * kind.expansion:
        with pytest.raises(UsageError, match="only adds channels"):
            block_model(block, channels, size)
        return
    model = block_model(block, channels, size)
    out = model(tf.zeros((2, size, size, channels)), training=True)
    side = -(-size // options["strides"])
    assert out.shape == (2, side, side, 8 * kind.expansion)
    again = kind.from_config(block.get_config())
    again.build((None, size, size, channels))
    assert [w.shape for w in again.weights] == [w.shape for w in block.weights]


def test_a_spec_and_its_fields_say_the_same() -> None:
    spec = BlockSpec(shortcut="D", se_ratio=0.25, norm="group")
    given = BottleneckBlock(8, 2, spec=spec, drop_rate=0.1, name="block")
    keywords = BottleneckBlock(8, 2, shortcut="D", se_ratio=0.25, norm="group", drop_rate=0.1, name="block")
    assert given.get_config() == keywords.get_config()
    assert BottleneckBlock.from_config(given.get_config()).spec == spec
    assert imagenet_spec(50, shortcut="D", se_ratio=0.25, norm="group").block_spec == spec
    with pytest.raises(UsageError, match="give BasicBlock a spec or its fields, not both"):
        BasicBlock(8, spec=spec, norm="group")
    with pytest.raises(UsageError, match="unknown shortcut 'E'; choose from A, B, C, D, none"):
        BasicBlock(8, shortcut="E")
    with pytest.raises(UsageError, match="cardinality must be at least 1, not 0"):
        BottleneckBlock(8, cardinality=0)
