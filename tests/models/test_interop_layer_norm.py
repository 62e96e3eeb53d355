"""Parity of ConvNeXt and ViT with torchvision's, timm's and transformers': their random weights, the same logits here.

`make test-interop` installs them. The networks are small, but for one of each library.
"""

from typing import Any

import pytest
from peers import timm, torchvision_models, transformers
from test_interop import randomised, same_logits
from test_layer_norm_weights import in_their_names

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.models.weights.layouts import LAYOUTS

pytestmark = pytest.mark.interop
torch: Any = pytest.importorskip("torch", reason="torch is not installed; make test-interop installs it")
COMMON: dict[str, Any] = {"classes": 7, "classifier_activation": None}
CONVNEXT: dict[str, Any] = {"blocks": (1, 2, 1, 1), "widths": (8, 16, 24, 32), **COMMON}
VIT: dict[str, Any] = {"blocks": 2, "width": 24, "heads": 3, "patch_size": 8, "image_size": 32, **COMMON}


def alike(module: Any, ours: Any, size: int, back: bool = True) -> None:
    """Their weights here give their logits; ours by timm's names are theirs again to the bit."""
    rk.load_weights(ours, randomised(module).state_dict())
    same_logits(module, ours, size)
    if back:
        state = rk.torch_state_dict(ours)
        assert state.keys() == module.state_dict().keys()
        assert all(torch.equal(torch.from_numpy(state[name]), value) for name, value in module.state_dict().items())


def timm_vit(**options: Any) -> Any:
    timm()
    from timm.models.vision_transformer import VisionTransformer  # pyright: ignore[reportMissingImports]

    own = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 7}
    return VisionTransformer(**own, **options)


@pytest.mark.parametrize("size", [64, 49])
def test_timms_convnext(size: int) -> None:
    timm()
    from timm.models.convnext import ConvNeXt  # pyright: ignore[reportMissingImports]

    module = ConvNeXt(num_classes=7, depths=(1, 2, 1, 1), dims=(8, 16, 24, 32))
    alike(module, rk.build_convnext("tiny", **CONVNEXT, input_shape=(size, size, 3)), size)


def test_torchvisions_convnext() -> None:
    torchvision_models()
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt  # pyright: ignore[reportMissingImports]

    blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 2), CNBlockConfig(24, 32, 1), CNBlockConfig(32, None, 1)]
    alike(ConvNeXt(blocks, num_classes=7), rk.build_convnext("tiny", **CONVNEXT, input_shape=(64, 64, 3)), 64, False)


@pytest.mark.parametrize("scale", [0.0, 1e-4])
@pytest.mark.parametrize("pool", ["token", "mean"])
def test_timms_vit(scale: float, pool: str) -> None:
    options = {} if pool == "token" else {"class_token": False, "global_pool": "avg", "fc_norm": False}
    module = timm_vit(init_values=scale or None, **options)
    alike(module, rk.build_vit("ti16", **VIT, layer_scale=scale, pool=pool, input_shape=(32, 32, 3)), 32)


def test_positions_without_one_of_the_class_token() -> None:
    """DeiT III's."""
    alike(timm_vit(no_embed_class=True), rk.build_vit("ti16", **VIT, input_shape=(32, 32, 3)), 32, False)


@pytest.mark.parametrize("own", [32, 48])
def test_timm_interpolates_positions_as_we_do(own: int) -> None:
    """At each call, and once where the network has positions of another size."""
    module = timm_vit(dynamic_img_size=True)
    alike(module, rk.build_vit("ti16", **{**VIT, "image_size": own}, input_shape=(48, 48, 3)), 48, False)


def test_torchvisions_vit() -> None:
    torchvision_models()
    from torchvision.models.vision_transformer import VisionTransformer  # pyright: ignore[reportMissingImports]

    module = VisionTransformer(32, 8, 2, 3, 24, 96, num_classes=7)
    alike(module, rk.build_vit("ti16", **VIT, input_shape=(32, 32, 3)), 32, False)


@pytest.mark.parametrize("name", ["convnext_tiny", "vit_b_16", "vit_b_32"])
def test_torchvisions_own(name: str) -> None:
    ours = rk.create_model({"vit_b_16": "vit_b16", "vit_b_32": "vit_b32"}.get(name, name), **COMMON)
    alike(torchvision_models().get_model(name, num_classes=7), ours, 224, False)


@pytest.mark.parametrize(
    ("theirs", "name"),
    [
        ("convnext_tiny", "convnext_tiny"),
        ("vit_tiny_patch16_224", "vit_ti16"),
        ("vit_small_patch16_224", "vit_s16"),
        ("vit_base_patch32_224", "vit_b32"),
    ],
)
def test_timms_own(theirs: str, name: str) -> None:
    alike(timm().create_model(theirs, num_classes=7), rk.create_model(name, **COMMON), 224)


def test_deit_iii() -> None:
    ours = rk.create_model("vit_s16", layer_scale=1e-4, **COMMON)
    alike(timm().create_model("deit3_small_patch16_224", num_classes=7), ours, 224, False)


@pytest.mark.parametrize("size", [64, 49])
def test_transformers_convnext(size: int) -> None:
    config = transformers().ConvNextConfig(depths=[1, 2, 1, 1], hidden_sizes=[8, 16, 24, 32], num_labels=7)
    module = randomised(transformers().ConvNextForImageClassification(config))
    alike_transformers(module, rk.build_convnext("tiny", **CONVNEXT, input_shape=(size, size, 3)), size, "ConvNeXt")
    backbone = rk.build_convnext("tiny", **CONVNEXT, input_shape=(size, size, 3), include_top=False)
    rk.load_weights(backbone, module.convnext)


def test_transformers_vit() -> None:
    own = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    config = transformers().ViTConfig(**own, image_size=32, patch_size=8, num_labels=7)
    module = randomised(transformers().ViTForImageClassification(config))
    ours = rk.build_vit("ti16", **VIT, input_shape=(32, 32, 3))
    alike_transformers(module, ours, 32, "ViT")
    other = rk.build_vit("ti16", **{**VIT, "width": 12}, input_shape=(32, 32, 3))
    with pytest.raises(UsageError, match="do not fit"):
        rk.load_weights(other, module)


def alike_transformers(module: Any, ours: Any, size: int, family: str) -> None:
    """Their module's weights give its logits here, and ours by their names are its own to the bit."""
    rk.load_weights(ours, module)
    same_logits(module, ours, size)
    layout = next(layout for layout in LAYOUTS if layout.title == f"transformers' {family}")
    state = in_their_names(ours, layout, 0)
    prefix = f"{family.lower()}."
    theirs = {name.removeprefix(prefix): value for name, value in module.state_dict().items()}
    assert state.keys() == theirs.keys()
    assert all(torch.equal(torch.from_numpy(state[name]), theirs[name]) for name in theirs)


@pytest.mark.parametrize("name", ["convnext_tiny", "vit_b16"])
def test_transformers_own_sizes(name: str) -> None:
    kind = "ConvNext" if name == "convnext_tiny" else "ViT"
    config = getattr(transformers(), f"{kind}Config")(num_labels=7)
    module = randomised(getattr(transformers(), f"{kind}ForImageClassification")(config))
    ours = rk.create_model(name, **COMMON)
    alike_transformers(module, ours, 224, "ConvNeXt" if kind == "ConvNext" else "ViT")
