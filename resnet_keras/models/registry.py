"""The table of names: what `create_model(name)` builds, what it costs, and whose idea it was. Standard library only.

A name is a row: the arguments of a spec, the size and classes it was published with, and where weights of it are.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from resnet_keras.errors import UsageError, unknown
from resnet_keras.models.layer_norm_specs import ConvNeXtSpec, ViTSpec, convnext_spec, vit_spec
from resnet_keras.models.spec import (
    DenseNetSpec,
    ResNetSpec,
    VGGSpec,
    cifar_spec,
    densenet_spec,
    imagenet_spec,
    vgg_spec,
)

Family = Literal["resnet", "cifar_resnet", "vgg", "densenet", "convnext", "vit"]
NetworkSpec = ResNetSpec | VGGSpec | DenseNetSpec | ConvNeXtSpec | ViTSpec
SPECS: Mapping[Family, Callable[..., NetworkSpec]] = {
    "resnet": imagenet_spec,
    "cifar_resnet": cifar_spec,
    "vgg": vgg_spec,
    "densenet": densenet_spec,
    "convnext": convnext_spec,
    "vit": vit_spec,
}
COMPLEXITY = Path(__file__).with_name("complexity.json")
PACKAGED: Mapping[str, Path] = {"cifar10-jpeg": Path(__file__).parent / "weights" / "cifar10-jpeg.keras"}
"""Trained networks that come with the package. The card in each file says of what, on what and how well."""
OFFER = "cifar10-jpeg (a ResNet-20, right for 84.27 % of the test images of CIFAR-10 (JPEG Q75))"
"""The same in words, for where they are offered."""
FREE_FIELDS = (
    "stochastic_depth",
    "stochastic_depth_by",
    "dropout",
    "layer_dropout",
    "zero_init_gamma",
    "initialization",
    "head_std",
    "output_stride",
)
"""Fields of a spec with which the same weights mean the same: of training only, or for denser maps."""


@dataclass(frozen=True)
class NamedNetwork:
    """A row of the table."""

    family: Family
    arguments: Mapping[str, Any]
    """Of the family's spec."""
    source: str
    input_size: int = 224
    classes: int = 1000
    weights: str | None = None
    """The Hugging Face Hub's name of published ImageNet weights."""

    @cached_property
    def spec(self) -> NetworkSpec:
        return SPECS[self.family](**self.arguments)


BELLO_2021 = "Bello et al. 2021"
DOSOVITSKIY_2020 = "Dosovitskiy et al. 2020"
OURS = "resnet-keras"
HE_2015 = "He et al. 2015"
HE_2016 = "He et al. 2016"
HE_2018 = "He et al. 2018"
HUANG_2017 = "Huang et al. 2017"
LIU_2022 = "Liu et al. 2022"
HU_2017 = "Hu et al. 2017"
SIMONYAN_2014 = "Simonyan & Zisserman 2014"
TOUVRON_2020 = "Touvron et al. 2020"
XIE_2016 = "Xie et al. 2016"
ZAGORUYKO_2016 = "Zagoruyko & Komodakis 2016"

NAMES: Mapping[str, NamedNetwork] = {
    "resnet18": NamedNetwork("resnet", {"depth": 18}, HE_2015, weights="timm/resnet18.a1_in1k"),
    "resnet34": NamedNetwork("resnet", {"depth": 34}, HE_2015, weights="timm/resnet34.a1_in1k"),
    "resnet50": NamedNetwork("resnet", {"depth": 50}, HE_2015, weights="timm/resnet50.a1_in1k"),
    "resnet101": NamedNetwork("resnet", {"depth": 101}, HE_2015, weights="timm/resnet101.a1h_in1k"),
    "resnet152": NamedNetwork("resnet", {"depth": 152}, HE_2015, weights="timm/resnet152.a1h_in1k"),
    "resnet200": NamedNetwork("resnet", {"depth": 200}, HE_2016),
    "resnet50_v1": NamedNetwork("resnet", {"depth": 50, "variant": "v1"}, HE_2015),
    "resnet101_v1": NamedNetwork("resnet", {"depth": 101, "variant": "v1"}, HE_2015),
    "resnet152_v1": NamedNetwork("resnet", {"depth": 152, "variant": "v1"}, HE_2015),
    "resnet50_v2": NamedNetwork("resnet", {"depth": 50, "variant": "v2"}, HE_2016, weights="timm/resnetv2_50.a1h_in1k"),
    "resnet101_v2": NamedNetwork(
        "resnet", {"depth": 101, "variant": "v2"}, HE_2016, weights="timm/resnetv2_101.a1h_in1k"
    ),
    "resnet152_v2": NamedNetwork("resnet", {"depth": 152, "variant": "v2"}, HE_2016),
    "resnet200_v2": NamedNetwork("resnet", {"depth": 200, "variant": "v2"}, HE_2016),
    "resnet50_v2_slim": NamedNetwork("resnet", {"depth": 50, "variant": "v2_slim"}, HE_2016),
    "resnet101_v2_slim": NamedNetwork("resnet", {"depth": 101, "variant": "v2_slim"}, HE_2016),
    "resnet152_v2_slim": NamedNetwork("resnet", {"depth": 152, "variant": "v2_slim"}, HE_2016),
    "plain18": NamedNetwork("resnet", {"depth": 18, "shortcut": "none"}, HE_2015),
    "plain34": NamedNetwork("resnet", {"depth": 34, "shortcut": "none"}, HE_2015),
    "resnet50d": NamedNetwork("resnet", {"depth": 50, "variant": "d"}, HE_2018, weights="timm/resnet50d.ra2_in1k"),
    "resnetrs50": NamedNetwork(
        "resnet",
        {"depth": 50, "variant": "rs", "stochastic_depth": 0.0, "dropout": 0.25},
        BELLO_2021,
        160,
        weights="timm/resnetrs50.tf_in1k",
    ),
    "resnetrs101": NamedNetwork(
        "resnet",
        {"depth": 101, "variant": "rs", "stochastic_depth": 0.0, "dropout": 0.25},
        BELLO_2021,
        192,
        weights="timm/resnetrs101.tf_in1k",
    ),
    "resnetrs152": NamedNetwork(
        "resnet",
        {"depth": 152, "variant": "rs", "stochastic_depth": 0.0, "dropout": 0.25},
        BELLO_2021,
        256,
        weights="timm/resnetrs152.tf_in1k",
    ),
    "resnetrs200": NamedNetwork(
        "resnet",
        {"depth": 200, "variant": "rs", "stochastic_depth": 0.1, "dropout": 0.25},
        BELLO_2021,
        256,
        weights="timm/resnetrs200.tf_in1k",
    ),
    "resnetrs270": NamedNetwork(
        "resnet",
        {"depth": 270, "variant": "rs", "stochastic_depth": 0.1, "dropout": 0.25},
        BELLO_2021,
        256,
        weights="timm/resnetrs270.tf_in1k",
    ),
    "resnetrs350": NamedNetwork(
        "resnet",
        {"depth": 350, "variant": "rs", "stochastic_depth": 0.1, "dropout": 0.4},
        BELLO_2021,
        288,
        weights="timm/resnetrs350.tf_in1k",
    ),
    "resnetrs420": NamedNetwork(
        "resnet",
        {"depth": 420, "variant": "rs", "stochastic_depth": 0.1, "dropout": 0.4},
        BELLO_2021,
        320,
        weights="timm/resnetrs420.tf_in1k",
    ),
    "resnext50_32x4d": NamedNetwork(
        "resnet", {"depth": 50, "cardinality": 32, "base_width": 4}, XIE_2016, weights="timm/resnext50_32x4d.a1h_in1k"
    ),
    "resnext101_32x8d": NamedNetwork(
        "resnet", {"depth": 101, "cardinality": 32, "base_width": 8}, XIE_2016, weights="timm/resnext101_32x8d.tv_in1k"
    ),
    "resnext101_64x4d": NamedNetwork(
        "resnet", {"depth": 101, "cardinality": 64, "base_width": 4}, XIE_2016, weights="timm/resnext101_64x4d.c1_in1k"
    ),
    "wide_resnet50_2": NamedNetwork(
        "resnet", {"depth": 50, "base_width": 128}, ZAGORUYKO_2016, weights="timm/wide_resnet50_2.racm_in1k"
    ),
    "wide_resnet101_2": NamedNetwork(
        "resnet", {"depth": 101, "base_width": 128}, ZAGORUYKO_2016, weights="timm/wide_resnet101_2.tv_in1k"
    ),
    "seresnet50": NamedNetwork("resnet", {"depth": 50, "se_ratio": 1 / 16}, HU_2017, weights="timm/seresnet50.a1_in1k"),
    "seresnet101": NamedNetwork("resnet", {"depth": 101, "se_ratio": 1 / 16}, HU_2017),
    "seresnet152": NamedNetwork("resnet", {"depth": 152, "se_ratio": 1 / 16}, HU_2017),
    "seresnext50_32x4d": NamedNetwork(
        "resnet",
        {"depth": 50, "cardinality": 32, "base_width": 4, "se_ratio": 1 / 16},
        HU_2017,
        weights="timm/seresnext50_32x4d.racm_in1k",
    ),
    "cifar_resnet20": NamedNetwork("cifar_resnet", {"depth": 20, "shortcut": "A"}, HE_2015, 32, 10),
    "cifar_resnet32": NamedNetwork("cifar_resnet", {"depth": 32, "shortcut": "A"}, HE_2015, 32, 10),
    "cifar_resnet44": NamedNetwork("cifar_resnet", {"depth": 44, "shortcut": "A"}, HE_2015, 32, 10),
    "cifar_resnet56": NamedNetwork("cifar_resnet", {"depth": 56, "shortcut": "A"}, HE_2015, 32, 10),
    "cifar_resnet110": NamedNetwork("cifar_resnet", {"depth": 110, "shortcut": "A"}, HE_2015, 32, 10),
    "cifar_resnet1202": NamedNetwork("cifar_resnet", {"depth": 1202, "shortcut": "A"}, HE_2015, 32, 10),
    "cifar_plain20": NamedNetwork("cifar_resnet", {"depth": 20, "shortcut": "none"}, HE_2015, 32, 10),
    "cifar_plain32": NamedNetwork("cifar_resnet", {"depth": 32, "shortcut": "none"}, HE_2015, 32, 10),
    "cifar_plain44": NamedNetwork("cifar_resnet", {"depth": 44, "shortcut": "none"}, HE_2015, 32, 10),
    "cifar_plain56": NamedNetwork("cifar_resnet", {"depth": 56, "shortcut": "none"}, HE_2015, 32, 10),
    "cifar_plain110": NamedNetwork("cifar_resnet", {"depth": 110, "shortcut": "none"}, HE_2015, 32, 10),
    "cifar_preact_resnet110": NamedNetwork(
        "cifar_resnet", {"depth": 110, "variant": "v2", "block": "basic", "shortcut": "B"}, HE_2016, 32, 10
    ),
    "cifar_preact_resnet164": NamedNetwork(
        "cifar_resnet", {"depth": 164, "variant": "v2", "shortcut": "B"}, HE_2016, 32, 10
    ),
    "cifar_preact_resnet1001": NamedNetwork(
        "cifar_resnet", {"depth": 1001, "variant": "v2", "shortcut": "B"}, HE_2016, 32, 10
    ),
    # Wide ResNet counts the three shortcut convolutions as layers: 28 is 6n+4, so 26 here.
    "cifar_wrn28_10": NamedNetwork(
        "cifar_resnet",
        {
            "depth": 26,
            "variant": "v2",
            "block": "basic",
            "widths": (160, 320, 640),
            "shortcut": "B",
            "initialization": "fan_in",  # szagoruyko/wide-residual-networks, models/utils.lua, line 5
        },
        ZAGORUYKO_2016,
        32,
        10,
    ),
    "cifar_resnext29_8x64d": NamedNetwork(
        "cifar_resnet",
        {
            "depth": 29,
            "cardinality": 8,
            "block": "bottleneck",
            "widths": (64, 128, 256),
            "stem_width": 64,
            "shortcut": "B",
        },
        XIE_2016,
        32,
        10,
    ),
    "cifar_resnext29_16x64d": NamedNetwork(
        "cifar_resnet",
        {
            "depth": 29,
            "cardinality": 16,
            "block": "bottleneck",
            "widths": (64, 128, 256),
            "stem_width": 64,
            "shortcut": "B",
        },
        XIE_2016,
        32,
        10,
    ),
    "cifar_seresnet110": NamedNetwork(
        "cifar_resnet", {"depth": 110, "shortcut": "A", "se_ratio": 1 / 16}, HU_2017, 32, 10
    ),
    "cifar_resnet8_4": NamedNetwork(
        "cifar_resnet",
        {"depth": 8, "widths": (64, 128, 256), "stem": "cifar_pool", "stem_width": 32, "shortcut": "D"},
        OURS,
        32,
        10,
    ),
    "resnet18_cifar": NamedNetwork("resnet", {"depth": 18, "stem": "cifar"}, HE_2015, 32, 10),
    "vgg11": NamedNetwork("vgg", {"depth": 11, "batch_norm": False}, SIMONYAN_2014, weights="timm/vgg11.tv_in1k"),
    "vgg11_bn": NamedNetwork("vgg", {"depth": 11, "batch_norm": True}, SIMONYAN_2014, weights="timm/vgg11_bn.tv_in1k"),
    "vgg13": NamedNetwork("vgg", {"depth": 13, "batch_norm": False}, SIMONYAN_2014, weights="timm/vgg13.tv_in1k"),
    "vgg13_bn": NamedNetwork("vgg", {"depth": 13, "batch_norm": True}, SIMONYAN_2014, weights="timm/vgg13_bn.tv_in1k"),
    "vgg16": NamedNetwork("vgg", {"depth": 16, "batch_norm": False}, SIMONYAN_2014, weights="timm/vgg16.tv_in1k"),
    "vgg16_bn": NamedNetwork("vgg", {"depth": 16, "batch_norm": True}, SIMONYAN_2014, weights="timm/vgg16_bn.tv_in1k"),
    "vgg19": NamedNetwork("vgg", {"depth": 19, "batch_norm": False}, SIMONYAN_2014, weights="timm/vgg19.tv_in1k"),
    "vgg19_bn": NamedNetwork("vgg", {"depth": 19, "batch_norm": True}, SIMONYAN_2014, weights="timm/vgg19_bn.tv_in1k"),
    "densenet121": NamedNetwork("densenet", {"depth": 121}, HUANG_2017, weights="timm/densenet121.ra_in1k"),
    "densenet161": NamedNetwork("densenet", {"depth": 161}, HUANG_2017, weights="timm/densenet161.tv_in1k"),
    "densenet169": NamedNetwork("densenet", {"depth": 169}, HUANG_2017, weights="timm/densenet169.tv_in1k"),
    "densenet201": NamedNetwork("densenet", {"depth": 201}, HUANG_2017, weights="timm/densenet201.tv_in1k"),
    "densenet264": NamedNetwork("densenet", {"depth": 264}, HUANG_2017),
    "cifar_densenet_bc_100_12": NamedNetwork(
        "densenet", {"depth": 100, "growth_rate": 12, "stem": "cifar"}, HUANG_2017, 32, 10
    ),
    "cifar_densenet_bc_190_40": NamedNetwork(
        "densenet", {"depth": 190, "growth_rate": 40, "stem": "cifar"}, HUANG_2017, 32, 10
    ),
    # Stochastic depth: Liu et al. 2022, Table 5.
    "convnext_tiny": NamedNetwork(
        "convnext", {"size": "tiny", "stochastic_depth": 0.1}, LIU_2022, weights="timm/convnext_tiny.fb_in1k"
    ),
    "convnext_small": NamedNetwork(
        "convnext", {"size": "small", "stochastic_depth": 0.4}, LIU_2022, weights="timm/convnext_small.fb_in1k"
    ),
    "convnext_base": NamedNetwork(
        "convnext", {"size": "base", "stochastic_depth": 0.5}, LIU_2022, weights="timm/convnext_base.fb_in1k"
    ),
    "convnext_large": NamedNetwork(
        "convnext", {"size": "large", "stochastic_depth": 0.5}, LIU_2022, weights="timm/convnext_large.fb_in1k"
    ),
    "vit_ti16": NamedNetwork(
        "vit", {"size": "ti16"}, TOUVRON_2020, weights="timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    ),
    "vit_s16": NamedNetwork(
        "vit", {"size": "s16"}, TOUVRON_2020, weights="timm/vit_small_patch16_224.augreg_in21k_ft_in1k"
    ),
    "vit_b16": NamedNetwork(
        "vit", {"size": "b16"}, DOSOVITSKIY_2020, weights="timm/vit_base_patch16_224.augreg_in21k_ft_in1k"
    ),
    "vit_b32": NamedNetwork(
        "vit", {"size": "b32"}, DOSOVITSKIY_2020, weights="timm/vit_base_patch32_224.augreg_in21k_ft_in1k"
    ),
    "vit_l16": NamedNetwork(
        "vit", {"size": "l16"}, DOSOVITSKIY_2020, weights="timm/vit_large_patch16_224.augreg_in21k_ft_in1k"
    ),
}


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` builds, in the table's order.

    Args:
        pattern: a shell pattern.

    Examples:
        >>> rk.list_models("resnext*")
        ['resnext50_32x4d', 'resnext101_32x8d', 'resnext101_64x4d']
    """
    return [name for name in NAMES if fnmatchcase(name, pattern)]


def named(name: str) -> NamedNetwork:
    """The row of a name. Raises `UsageError` with the nearest names for one that is not in the table."""
    if name not in NAMES:
        raise unknown("model", name, NAMES, "resnet-keras models lists all")
    return NAMES[name]


def names_of(spec: NetworkSpec) -> list[str]:
    """The names whose weights a spec can take and give the same answers with."""
    return [name for name, row in NAMES.items() if type(row.spec) is type(spec) and _core(row.spec) == _core(spec)]


def hub_name(spec: NetworkSpec, called: str) -> str:
    """Where the published ImageNet weights of a network are. Raises `UsageError`, in which it is `called`, for none."""
    found = next((weights for name in names_of(spec) if (weights := NAMES[name].weights)), None)
    if not found:
        some = [name for name, row in NAMES.items() if row.weights]
        raise UsageError(
            f"there are no 'imagenet' weights for {called} as it is built; there are for {len(some)} named networks, "
            f"such as {', '.join(some[:4])}, without changed options"
        )
    return found


def packaged(source: str | Path) -> Path | None:
    """The file of a trained network that comes with the package; None for another name, or a path that exists."""
    file = PACKAGED.get(str(source))
    return None if file is None or Path(source).exists() else file


def check_there(source: str) -> None:
    """Raise `UsageError` for a run folder, a model or a SavedModel that is not there. What is there may be damaged."""
    if not source.startswith("hf://") and not packaged(source) and not Path(source).expanduser().exists():
        raise no_model(source)


def no_model(path: str | Path) -> UsageError:
    """The error for a path with nothing."""
    return UsageError(f"there is no run folder or model at {path}; packaged ones are {OFFER}")


def _core(spec: Any) -> dict[str, Any]:
    fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    core = {name: value for name, value in fields.items() if name not in FREE_FIELDS}
    if core.get("norm") == "sync_batch":
        core["norm"] = "batch"
    if "layer_scale" in core:  # what the gammas start at, if there are any
        core["layer_scale"] = core["layer_scale"] > 0
    return core


def model_table(names: list[str]) -> list[dict[str, Any]]:
    """Rows of `resnet-keras models`: name, input_size, parameters, macs, ..., source."""
    table = json.loads(COMPLEXITY.read_text())
    return [{"name": name, **table[name], "source": NAMES[name].source} for name in names]
