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
from resnet_keras.models.spec import (
    DENSENET_DEPTHS,
    VGG_DEPTHS,
    DenseNetSpec,
    ResNetSpec,
    VGGSpec,
    cifar_spec,
    densenet_spec,
    imagenet_spec,
    vgg_spec,
)

Family = Literal["resnet", "cifar_resnet", "vgg", "densenet"]
SPECS: Mapping[Family, Callable[..., ResNetSpec | VGGSpec | DenseNetSpec]] = {
    "resnet": imagenet_spec,
    "cifar_resnet": cifar_spec,
    "vgg": vgg_spec,
    "densenet": densenet_spec,
}
COMPLEXITY = Path(__file__).with_name("complexity.json")
PACKAGED: Mapping[str, Path] = {"cifar10-jpeg": Path(__file__).parent / "weights" / "cifar10-jpeg.keras"}
"""Trained networks that come with the package. The card in each file says of what, on what and how well."""
OFFER = "cifar10-jpeg (a ResNet-20, right for 84.27 % of the test images of CIFAR-10 (JPEG Q75))"
"""The same in words, for where they are offered."""
FREE_FIELDS = ("stochastic_depth", "dropout", "layer_dropout", "zero_init_gamma", "output_stride")
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
    def spec(self) -> ResNetSpec | VGGSpec | DenseNetSpec:
        return SPECS[self.family](**self.arguments)


def _names() -> dict[str, NamedNetwork]:
    he15, he16, xie, wide = "He et al. 2015", "He et al. 2016", "Xie et al. 2016", "Zagoruyko & Komodakis 2016"
    hu, simonyan, huang = "Hu et al. 2017", "Simonyan & Zisserman 2014", "Huang et al. 2017"
    names: dict[str, NamedNetwork] = {}

    def imagenet(name: str, source: str, weights: str = "", input_size: int = 224, **arguments: Any) -> None:
        names[name] = NamedNetwork("resnet", arguments, source, input_size, weights=weights or None)

    def cifar(name: str, source: str, **arguments: Any) -> None:
        names[name] = NamedNetwork("cifar_resnet", arguments, source, 32, 10)

    for depth, tag in {18: "a1", 34: "a1", 50: "a1", 101: "a1h", 152: "a1h"}.items():
        imagenet(f"resnet{depth}", he15, f"timm/resnet{depth}.{tag}_in1k", depth=depth)
    imagenet("resnet200", he16, depth=200)
    for depth in (50, 101, 152):
        imagenet(f"resnet{depth}_v1", he15, depth=depth, variant="v1")
    for depth in (50, 101, 152, 200):
        tag = f"timm/resnetv2_{depth}.a1h_in1k" if depth < 152 else ""
        imagenet(f"resnet{depth}_v2", he16, tag, depth=depth, variant="v2")
    for depth in (50, 101, 152):
        imagenet(f"resnet{depth}_v2_slim", he16, depth=depth, variant="v2_slim")
    for depth in (18, 34):
        imagenet(f"plain{depth}", he15, depth=depth, shortcut="none")
    imagenet("resnet50d", "He et al. 2018", "timm/resnet50d.ra2_in1k", depth=50, variant="d")
    for depth, size in {50: 160, 101: 192, 152: 256, 200: 256, 270: 256, 350: 288, 420: 320}.items():
        drops = {"stochastic_depth": 0.1 if depth >= 200 else 0.0, "dropout": 0.4 if depth >= 350 else 0.25}
        weights = f"timm/resnetrs{depth}.tf_in1k"
        imagenet(f"resnetrs{depth}", "Bello et al. 2021", weights, size, depth=depth, variant="rs", **drops)
    for depth, groups, width, tag in ((50, 32, 4, "a1h"), (101, 32, 8, "tv"), (101, 64, 4, "c1")):
        name = f"resnext{depth}_{groups}x{width}d"
        imagenet(name, xie, f"timm/{name}.{tag}_in1k", depth=depth, cardinality=groups, base_width=width)
    for depth, tag in {50: "racm", 101: "tv"}.items():
        name = f"wide_resnet{depth}_2"
        imagenet(name, wide, f"timm/{name}.{tag}_in1k", depth=depth, base_width=128)
    for depth in (50, 101, 152):
        imagenet(f"seresnet{depth}", hu, "timm/seresnet50.a1_in1k" * (depth == 50), depth=depth, se_ratio=1 / 16)
    resnext: dict[str, Any] = {"depth": 50, "cardinality": 32, "base_width": 4}
    imagenet("seresnext50_32x4d", hu, "timm/seresnext50_32x4d.racm_in1k", **resnext, se_ratio=1 / 16)

    for depth in (20, 32, 44, 56, 110, 1202):
        cifar(f"cifar_resnet{depth}", he15, depth=depth, shortcut="A")
    for depth in (20, 32, 44, 56, 110):
        cifar(f"cifar_plain{depth}", he15, depth=depth, shortcut="none")
    cifar("cifar_preact_resnet110", he16, depth=110, variant="v2", block="basic", shortcut="B")
    for depth in (164, 1001):
        cifar(f"cifar_preact_resnet{depth}", he16, depth=depth, variant="v2", shortcut="B")
    # Wide ResNet counts the three shortcut convolutions as layers: 28 is 6n+4, so 26 here.
    wrn: dict[str, Any] = {"block": "basic", "widths": (160, 320, 640), "shortcut": "B"}
    cifar("cifar_wrn28_10", wide, depth=26, variant="v2", **wrn)
    for groups in (8, 16):
        widths: dict[str, Any] = {"block": "bottleneck", "widths": (64, 128, 256), "stem_width": 64, "shortcut": "B"}
        cifar(f"cifar_resnext29_{groups}x64d", xie, depth=29, cardinality=groups, **widths)
    cifar("cifar_seresnet110", hu, depth=110, shortcut="A", se_ratio=1 / 16)
    wide8: dict[str, Any] = {"widths": (64, 128, 256), "stem": "cifar_pool", "stem_width": 32, "shortcut": "D"}
    cifar("cifar_resnet8_4", he15, depth=8, **wide8)
    names["resnet18_cifar"] = NamedNetwork("resnet", {"depth": 18, "stem": "cifar"}, he15, 32, 10)

    for depth in VGG_DEPTHS:
        for suffix, batch_norm in (("", False), ("_bn", True)):
            name = f"vgg{depth}{suffix}"
            vgg = {"depth": depth, "batch_norm": batch_norm}
            names[name] = NamedNetwork("vgg", vgg, simonyan, weights=f"timm/{name}.tv_in1k")
    for depth in DENSENET_DEPTHS:
        weights = f"timm/densenet{depth}.{'ra' if depth == 121 else 'tv'}_in1k" if depth < 264 else None
        names[f"densenet{depth}"] = NamedNetwork("densenet", {"depth": depth}, huang, weights=weights)
    for depth, growth in ((100, 12), (190, 40)):
        arguments: dict[str, Any] = {"depth": depth, "growth_rate": growth, "stem": "cifar"}
        names[f"cifar_densenet_bc_{depth}_{growth}"] = NamedNetwork("densenet", arguments, huang, 32, 10)
    return names


NAMES: Mapping[str, NamedNetwork] = _names()


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` builds, in the table's order, filtered by a shell pattern (`"*cifar*"`)."""
    return [name for name in NAMES if fnmatchcase(name, pattern)]


def named(name: str) -> NamedNetwork:
    """The row of a name. Raises `UsageError` with the nearest names for one that is not in the table."""
    if name not in NAMES:
        raise unknown("model", name, NAMES, "resnet-keras models lists all")
    return NAMES[name]


def names_of(spec: ResNetSpec | VGGSpec | DenseNetSpec) -> list[str]:
    """The names whose weights a spec can take and give the same answers with."""
    return [name for name, row in NAMES.items() if type(row.spec) is type(spec) and _core(row.spec) == _core(spec)]


def hub_name(spec: ResNetSpec | VGGSpec | DenseNetSpec, called: str) -> str:
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


def _core(spec: Any) -> dict[str, Any]:
    fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    norm = "batch" if fields["norm"] == "sync_batch" else fields["norm"]
    return {**{name: value for name, value in fields.items() if name not in FREE_FIELDS}, "norm": norm}


def model_table(names: list[str]) -> list[dict[str, Any]]:
    """Rows of `resnet-keras models`: name, input_size, parameters, macs, ..., source."""
    table = json.loads(COMPLEXITY.read_text())
    return [{"name": name, **table[name], "source": NAMES[name].source} for name in names]
