"""Weights of ConvNeXt and ViT by others' names. `make test-interop` compares the answers with those libraries'."""

from typing import Any

import keras
import numpy as np
import pytest
from small import randomise
from test_convnext import small as convnext
from test_vit import small as vit

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.models.weights.axes import to_theirs
from resnet_keras.models.weights.layouts import LAYOUTS, Layout
from resnet_keras.models.weights.weight_layers import HEAD, WeightLayers

TIMM = {
    "convnext": {
        "stem.0.weight": (8, 3, 2, 2),
        "stages.1.downsample.1.weight": (12, 8, 2, 2),
        "stages.1.blocks.1.conv_dw.weight": (12, 1, 7, 7),
        "stages.1.blocks.1.mlp.fc1.weight": (48, 12),
        "stages.1.blocks.1.gamma": (12,),
        "head.norm.weight": (16,),
        "head.fc.weight": (3, 16),
    },
    "vit": {
        "cls_token": (1, 1, 12),
        "pos_embed": (1, 17, 12),
        "patch_embed.proj.weight": (12, 3, 4, 4),
        "blocks.1.attn.qkv.weight": (36, 12),
        "blocks.1.ls2.gamma": (12,),
        "norm.weight": (12,),
        "head.weight": (3, 12),
    },
}
BUILD: dict[str, Any] = {"convnext": convnext, "vit": lambda **options: vit(layer_scale=0.1, **options)}


@pytest.mark.parametrize("family", BUILD)
def test_timms_names_there_and_back(family: str) -> None:
    model, twin = BUILD[family](), BUILD[family]()
    randomise(model)
    state = rk.torch_state_dict(model)
    assert TIMM[family].items() <= {name: value.shape for name, value in state.items()}.items()
    rk.load_weights(twin, state)
    for ours, theirs in zip(twin.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    backbone = BUILD[family](include_top=False)
    rk.load_weights(backbone, state)
    np.testing.assert_array_equal(backbone.weights[-1], model.weights[-3])
    other = BUILD[family](classes=5)
    with pytest.raises(UsageError, match="the head of the mapping does not fit"):
        rk.load_weights(other, state)
    rk.load_weights(other, state, skip_head=True)


@pytest.mark.parametrize("title", ["torchvision's ConvNeXt", "torchvision's ViT"])
def test_torchvisions_names(title: str) -> None:
    layout = next(layout for layout in LAYOUTS if layout.title == title)
    model, twin = (convnext(), convnext()) if "ConvNeXt" in title else (vit(), vit())
    randomise(model)
    network = WeightLayers(model)
    state = {
        layout.tensor(names[-1 if path != HEAD else 0], variable): to_theirs(layer, layout, variable, value.numpy())
        for path, names in layout.names(network).items()
        for layer in [network.by_path[path]]
        for variable, value in layer.variables.items()
    }
    shapes = {"features.3.1.layer_scale": (12, 1, 1)} if "ConvNeXt" in title else {"class_token": (1, 1, 12)}
    assert shapes.items() <= {name: value.shape for name, value in state.items()}.items()
    rk.load_weights(twin, state)
    for ours, theirs in zip(twin.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_positions_of_other_sizes() -> None:
    model, larger = vit(), vit(image_size=24, input_shape=(24, 24, 3))
    randomise(model)
    state = rk.torch_state_dict(model)
    rk.load_weights(larger, state)
    x = np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype("float32")
    at_each_call = vit(input_shape=(24, 24, 3))
    at_each_call.set_weights(model.get_weights())
    np.testing.assert_allclose(larger(x), at_each_call(x), atol=1e-5)
    state["pos_embed"] = state["pos_embed"][:, 1:]  # as DeiT III's
    rk.load_weights(larger, state)
    assert not np.any(larger.get_layer("stem").layers[-1].positions.numpy()[0])
    state["pos_embed"] = state["pos_embed"][:, :13]
    with pytest.raises(UsageError, match=r"pos_embed is \(1, 13, 12\) there and \(1, 37, 12\) here"):
        rk.load_weights(larger, state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_placement": "post"}, "has its norms behind the sums, that library's before"),
        ({"activation": "relu"}, "has relu, that library's gelu"),
    ],
)
def test_what_would_fit_and_be_wrong_is_refused(options: dict[str, Any], message: str) -> None:
    state = rk.torch_state_dict(convnext())
    with pytest.raises(UsageError, match=message):
        rk.load_weights(convnext(**options), state)


def in_their_names(model: keras.Model, layout: Layout, which: int) -> dict[str, np.ndarray]:
    """Our weights by the names of a layout, what is one of ours taken apart where there it is several."""
    network = WeightLayers(model)
    state: dict[str, np.ndarray] = {}
    for path, names in layout.names(network).items():
        for variable, value in network.by_path[path].variables.items():
            theirs = to_theirs(network.by_path[path], layout, variable, np.asarray(value))
            parts = layout.tensor(names[which], variable).split("+")
            arrays = np.split(theirs, len(parts)) if len(parts) > 1 else [theirs]
            state |= {part: np.ascontiguousarray(array) for part, array in zip(parts, arrays, strict=True)}
    return state


TRANSFORMERS = {"transformers' ConvNeXt": "embeddings.layernorm.weight", "transformers' ViT": "embeddings.cls_token"}


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("title", TRANSFORMERS)
def test_transformers_names(title: str, version: int) -> None:
    """Queries, keys and values are three tensors there. `make test-interop` has them from transformers 5 itself."""
    layout = next(layout for layout in LAYOUTS if layout.title == title)
    model, twin = (convnext(), convnext()) if "ConvNeXt" in title else (vit(), vit())
    randomise(model)
    state = in_their_names(model, layout, -1 if version == 4 else 0)
    assert TRANSFORMERS[title] in state
    if "ViT" in title:
        name = "encoder.layer.1.attention.attention.key" if version == 4 else "layers.1.attention.k_proj"
        assert state[f"{name}.weight"].shape == (12, 12)
    prefix = "convnext." if "ConvNeXt" in title else "vit."
    named = {name if name.startswith("classifier") else prefix + name: value for name, value in state.items()}
    rk.load_weights(twin, named)
    for ours, theirs in zip(twin.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if "ViT" in title:
        part = next(name for name in named if "key.weight" in name or "k_proj.weight" in name)
        with pytest.raises(UsageError, match=r"\(12, 5\) there|do not fit"):
            rk.load_weights(twin, {**named, part: named[part][:, :5]})
        del named[part]
        with pytest.raises(UsageError, match=r"(key|k_proj)\.weight missing there"):
            rk.load_weights(twin, named)
