"""Weights of the same shapes that mean something else: what a file says of them, and what is refused."""

import json
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from small import randomise

import resnet_keras as rk
from resnet_keras.config.stored import config_from_json
from resnet_keras.errors import UsageError
from resnet_keras.models.signature import ATTRIBUTE

NARROW: dict[str, Any] = {"widths": (4, 4, 8), "stem_width": 4, "classes": 3, "shortcut": "B"}


def preactivation(**options: Any) -> keras.Model:
    model = rk.build_cifar_resnet(11, "v2", **{**NARROW, **options})
    randomise(model)
    return model


def of_0_1(path: Path) -> Path:
    """A file of weights as version 0.1 wrote it: a net that strides in the 3x3, of which the file says nothing."""
    keras.Model.save_weights(preactivation(stride_in_1x1=False), path)
    return path


def test_a_net_of_the_authors_code_strides_in_its_first_1x1() -> None:
    model = rk.create_model("cifar_preact_resnet164", blocks=(1, 2, 1))
    strides = [[convolution.strides for convolution in layer.convolutions()] for layer in model.layers[3:7]]
    assert strides == [[1, 1, 1], [2, 1, 1], [1, 1, 1], [2, 1, 1]]
    basic = rk.create_model("cifar_preact_resnet110", blocks=(1, 1, 1))
    assert not any(layer.spec.stride_in_1x1 for layer in basic.layers[3:6])  # weights of 0.1 say so too


LOADS = [rk.load_weights, lambda model, path: model.load_weights(path)]


@pytest.mark.parametrize("load", LOADS)
def test_a_file_of_weights_says_where_its_blocks_stride(load: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.weights.h5"
    now, before = preactivation(), preactivation(stride_in_1x1=False)
    now.save_weights(path)
    again = preactivation()
    load(again, path)
    assert all(np.array_equal(a, b) for a, b in zip(again.get_weights(), now.get_weights(), strict=True))
    with pytest.raises(UsageError, match="blocks have stride_in_1x1 True, those of .* have False") as error:
        load(before, path)
    assert "\n" not in str(error.value)


def test_a_file_of_0_1_is_refused_by_the_net_it_is_not_of(tmp_path: Path) -> None:
    path, now = of_0_1(tmp_path / "a.weights.h5"), preactivation()
    for load in LOADS:
        before = preactivation(stride_in_1x1=False)
        kept = now.get_weights()
        with pytest.raises(UsageError, match=r"does not say .* if it is of 0.1, build .* stride_in_1x1=False") as error:
            load(now, path)
        assert "\n" not in str(error.value)
        assert all(np.array_equal(a, b) for a, b in zip(kept, now.get_weights(), strict=True))
        load(before, path)
    now.save_weights(tmp_path / "parts.weights.json", max_shard_size=1)
    with pytest.raises(UsageError, match="does not say where its blocks stride"):
        now.load_weights(tmp_path / "parts.weights.json")
    other = rk.build_cifar_resnet(8, **{**NARROW, "shortcut": "A"})  # in which nothing has changed
    keras.Model.save_weights(other, tmp_path / "b.weights.h5")
    rk.load_weights(other, tmp_path / "b.weights.h5")


def test_keras_loads_the_file_elsewhere(tmp_path: Path) -> None:
    model, path = preactivation(), tmp_path / "a.weights.h5"
    model.save_weights(path)
    plain = keras.Model(model.input, model.output)
    plain.load_weights(path)
    with h5py.File(path) as file:
        assert json.loads(file.attrs[ATTRIBUTE])["stride_in_1x1"] == [True]


def test_other_files_that_say_where_their_blocks_stride(tmp_path: Path) -> None:
    before, now = preactivation(stride_in_1x1=False), preactivation()
    before.save(tmp_path / "a.keras")
    for load in LOADS:
        with pytest.raises(UsageError, match="stride_in_1x1.*build it with the same options"):
            load(now, tmp_path / "a.keras")
    with pytest.raises(UsageError, match="answers be wrong: .*; build with stride_in_1x1=False for them"):
        rk.load_weights(now, rk.torch_state_dict(before))
    with pytest.raises(UsageError, match="answers be wrong: .*; build with stride_in_1x1=False for them"):
        rk.torch_state_dict(now)
    ours = {weight.path: np.asarray(weight) for weight in before.weights}
    with pytest.raises(UsageError, match="the mapping does not say where its blocks stride"):
        rk.load_weights(now, ours)


def test_a_run_of_0_1_keeps_its_net() -> None:
    stored = {"model": "cifar_preact_resnet164", "model_options": {"widths": "4,4,8"}, "test_every": 1}
    assert config_from_json(json.dumps(stored)).model_options == {"stride_in_1x1": False, "widths": "4,4,8"}
    del stored["test_every"]  # a config of the user's own has some fields
    assert config_from_json(json.dumps(stored)).model_options == {"widths": "4,4,8"}
    now = config_from_json(json.dumps({**stored, "format_version": 1}))
    assert now.model_options["stride_in_1x1"] is False
    assert config_from_json(now.to_json()) == now


def test_initialization_is_of_the_channels_read() -> None:
    """szagoruyko/wide-residual-networks, models/utils.lua, lines 5 and 6."""
    keras.utils.set_random_seed(0)
    model = rk.create_model("cifar_wrn28_10", widths=(32, 64, 128), blocks=(1, 1, 1))
    kernels = {layer.path: layer.kernel for block in model.layers for layer in _convolutions(block)}
    assert len(kernels) == 10
    for path, kernel in kernels.items():
        expected = (2 / np.prod(kernel.shape[:3])) ** 0.5
        assert np.std(kernel) == pytest.approx(expected, rel=6 / (2 * np.size(kernel)) ** 0.5), path
    again = rk.create_model("cifar_wrn28_10", widths=(32, 64, 128), blocks=(1, 1, 1), initialization="fan_out")
    rk.load_weights(again, model)  # it is no part of what weights mean


def _convolutions(layer: Any) -> list[Any]:
    below = getattr(layer, "layers", [])
    own = [layer] if isinstance(layer, keras.layers.Conv2D) else []
    return own + [found for part in below for found in _convolutions(part)]
