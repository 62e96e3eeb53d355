"""Every name: builds, trains a step, saves, loads and exports."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import resnet_keras as rk
from resnet_keras.models.layer_norm_specs import ConvNeXtSpec, ViTSpec
from resnet_keras.models.registry import NAMES
from resnet_keras.models.spec import DenseNetSpec, ResNetSpec, VGGSpec

RNG = np.random.default_rng(0)


def short(name: str) -> dict[str, Any]:
    """Fields that leave a network's kind of stem, block and shortcut as it is, and make it short."""
    spec = NAMES[name].spec
    if isinstance(spec, VGGSpec):
        return {"convolutions": (1,) * len(spec.convolutions), "widths": (8, 8, 16, 16, 16), "hidden": 32}
    if isinstance(spec, DenseNetSpec):
        return {"layers": (2, 1, 1, 1)[: len(spec.layers)], "growth_rate": 8, "stem_width": 16}
    if isinstance(spec, ConvNeXtSpec):
        return {"blocks": (2, 1, 1, 1), "widths": (8, 16, 16, 24)}
    if isinstance(spec, ViTSpec):
        return {"blocks": 2, "width": 24, "heads": 3, "image_size": 64}
    fields = {"blocks": (2, 1, 1), "widths": (16, 16, 32), "stem_width": 16}
    return {**fields, "cardinality": 4, "base_width": 32} if spec.cardinality > 1 else fields


def kinds() -> list[str]:
    """The names, one for each network that they are when short."""
    untrained = {"dropout": 0.0, "stochastic_depth": 0.0}
    kinds: dict[Any, str] = {}
    for name, row in NAMES.items():
        drops = {field: value for field, value in untrained.items() if hasattr(row.spec, field)}
        kinds[dataclasses.replace(row.spec, **short(name), **drops)] = name
    return list(kinds.values())


COMPILED = ("resnext101_64x4d", "cifar_resnet8_4", "vgg19_bn", "densenet264")
"""Kinds whose step is compiled by XLA, as Keras does by itself; the slow test compiles every name's."""

TOGETHER = (
    "cifar_densenet_bc_190_40",
    "cifar_preact_resnet110",
    "cifar_resnext29_16x64d",
    "cifar_seresnet110",
    "cifar_wrn28_10",
    "plain34",
    "resnet152_v1",
    "resnet18_cifar",
    "resnet200",
    "resnet200_v2",
    "resnet34",
    "seresnet152",
    "seresnext50_32x4d",
    "vgg19",
    "vit_b32",
    "wide_resnet101_2",
)
"""Kinds each part of which another kind has too: 2 to 6 seconds each."""


def use(name: str, folder: Path, compiled: bool = True, **fields: Any) -> None:
    """A step of training, a file, a servable: each answers as the model does.

    A step that is not compiled is eager, for a trace takes longer.
    """
    side = 32
    model = rk.create_model(name, classes=3, input_shape=(side, side, 3), include_preprocessing=True, **fields)
    images = RNG.integers(0, 256, (4, side, side, 3)).astype("float32")
    before = [weight.numpy().copy() for weight in model.trainable_weights]
    # The gradient of a hundred plain layers with batch norm explodes, hence the clipping.
    optimizer = keras.optimizers.SGD(1e-3, global_clipnorm=1.0)
    model.compile(
        optimizer,
        "sparse_categorical_crossentropy",
        jit_compile="auto" if compiled else False,
        run_eagerly=not compiled,
    )
    loss = model.train_on_batch(images, np.array([0, 1, 2, 0]))
    assert np.isfinite(loss)
    after = [weight.numpy() for weight in model.trainable_weights]
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(np.isfinite(weight).all() for weight in after)
    del before, after  # of the largest networks a gigabyte each, as what is deleted below

    model.save(folder / "model.keras")
    again = rk.load_model(folder / "model.keras")
    np.testing.assert_array_equal(again(images), model(images))

    expected, channels = np.asarray(model(images)), model.get_layer("logits").kernel.shape[0]
    del model
    exported = str(rk.export_servable(again, folder / "servable"))
    del again
    served = tf.saved_model.load(exported)
    answer = served.signatures["serving_default"](image=tf.constant(images, tf.uint8))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-4)
    features = served.signatures["features"](image=tf.constant(images, tf.uint8))["features"]
    assert features.shape[1] == channels


def test_short_networks_stand_for_every_family() -> None:
    assert {NAMES[name].family for name in kinds()} == {"resnet", "cifar_resnet", "vgg", "densenet", "convnext", "vit"}
    assert len(kinds()) >= 20
    assert set(COMPILED) <= set(kinds())
    specs = [NAMES[name].spec for name in kinds()]
    assert {spec.block for spec in specs if isinstance(spec, ResNetSpec)} == {"basic", "bottleneck"}
    assert any(isinstance(spec, ResNetSpec) and spec.stochastic_depth for spec in specs)


def test_no_part_is_in_slow_tests_only() -> None:
    def parts(names: set[str]) -> set[tuple[Any, ...]]:
        specs = [NAMES[name].spec for name in names]
        fields = ("block", "stem", "shortcut", "preactivation", "stride_in_1x1", "stride_in_last_block", "norm")
        found: set[tuple[Any, ...]]
        found = {(field, getattr(spec, field)) for spec in specs if isinstance(spec, ResNetSpec) for field in fields}
        residual = [spec for spec in specs if isinstance(spec, ResNetSpec)]
        found |= {("grouped", spec.cardinality > 1) for spec in residual}
        found |= {("se", spec.block, spec.se_ratio > 0) for spec in residual if spec.block == "bottleneck"}
        return found | {("family", NAMES[name].family) for name in names}

    assert set(TOGETHER) <= set(kinds())
    assert parts(set(kinds()) - set(TOGETHER)) == parts(set(kinds()))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in TOGETHER else []) for name in kinds()]
)
def test_every_kind_of_network_in_short(name: str, tmp_path: Path) -> None:
    use(name, tmp_path, name in COMPILED, **short(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_name_in_full(name: str, tmp_path: Path) -> None:
    """In a process of its own, for TensorFlow gives little of a large network's memory back."""
    spec = NAMES[name].spec
    # With statistics of one step, a hundred blocks would double the signal till it overflows; identities do not.
    fields = {"zero_init_gamma": spec.shortcut != "none"} if isinstance(spec, ResNetSpec) else {}
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        f"from pathlib import Path; import test_family; test_family.use({name!r}, Path({str(tmp_path)!r}), **{fields})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
