"""What a network is: `ResNetSpec`, the table of variants and the table of names. Standard library only.

A variant is a row: fields of `ResNetSpec` that differ from its defaults. A name is a row too: a depth, a variant and
fields. Nothing here knows about Keras.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from resnet_keras.errors import UsageError, check_types, require, unknown

BlockKind = Literal["basic", "bottleneck"]
Stem = Literal["imagenet", "cifar", "deep"]
Shortcut = Literal["A", "B", "C", "D", "none"]
Norm = Literal["batch", "sync_batch"]


@dataclass(frozen=True)
class ResNetSpec:
    """A residual network, stem to last stage (the head is the builder's).

    Raises `UsageError` for a value that no network can have.
    """

    blocks: tuple[int, ...]
    """Blocks in each stage; every stage after the first halves height and width."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Filters of each stage before the bottleneck's expansion (He et al. 2015, Table 1)."""
    block: BlockKind = "basic"
    """`basic`: two 3x3; `bottleneck`: 1x1, 3x3, 1x1 with four times the filters (He et al. 2015, Figure 5)."""
    stem: Stem = "imagenet"
    """`imagenet`: 7x7 stride 2 and max-pool; `deep`: three 3x3 and max-pool (He et al. 2018, ResNet-C);
    `cifar`: 3x3."""
    stem_width: int = 64
    """Filters of the stem's output; the deep stem's first two convolutions have half as many."""
    shortcut: Shortcut = "B"
    """Where the shape changes: A zero-pads channels, B projects by 1x1, D averages 2x2 and projects. C projects
    everywhere (He et al. 2015, section 4.1; He et al. 2018 for D). `none` is the plain net."""
    preactivation: bool = False
    """Norm and activation before each convolution (He et al. 2016)."""
    stride_in_1x1: bool = False
    """The bottleneck's stride sits in its first 1x1 (He et al. 2015, "v1") instead of its 3x3 ("v1.5")."""
    cardinality: int = 1
    """Groups of the bottleneck's 3x3 (Xie et al. 2016)."""
    base_width: int = 64
    """Width of a group at a stage of 64 filters: 4 in ResNeXt-50 32x4d, 128 in Wide ResNet-50-2."""
    se_ratio: float = 0.0
    """Squeeze-and-excitation with this share of the channels (Hu et al. 2017: 1/16); 0 for none."""
    norm: Norm = "batch"
    """Batch normalisation over one replica's batch, or over all replicas' (`sync_batch`)."""
    zero_init_gamma: bool = False
    """Every block starts as the identity: the last norm's gamma (pre-activation: the last kernel) starts at zero
    (Goyal et al. 2017, section 5.1)."""
    activation: str = "relu"

    def __post_init__(self) -> None:
        for name in ("blocks", "widths"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check_types(self)
        if not self.blocks or len(self.blocks) != len(self.widths) or min(self.blocks + self.widths) < 1:
            raise UsageError(
                f"blocks and widths need one positive number a stage each, not {self.blocks} and {self.widths}"
            )
        require(self.stem_width >= 2, "stem_width", "at least 2", self.stem_width)
        require(self.cardinality >= 1, "cardinality", "at least 1", self.cardinality)
        narrowest = min(self.widths) * self.base_width // 64
        require(narrowest >= 1, "base_width", f"at least {-(-64 // min(self.widths))} here", self.base_width)
        if self.block == "basic" and (self.cardinality, self.base_width) != (1, 64):
            raise UsageError("cardinality and base_width belong to block='bottleneck'; widen a basic net with widths=")
        if self.shortcut == "none" and self.zero_init_gamma:
            raise UsageError("zero_init_gamma would silence a plain net: with shortcut='none' nothing goes round")
        require(0.0 <= self.se_ratio <= 1.0, "se_ratio", "between 0 and 1", self.se_ratio)

    @property
    def total_stride(self) -> int:
        """Input pixels to one pixel of the last stage, along one side."""
        return (1 if self.stem == "cifar" else 4) * 2 ** (len(self.blocks) - 1)


DEPTHS: Mapping[int, tuple[BlockKind, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
"""The ImageNet nets (He et al. 2015, Table 1; 200: He et al. 2016)."""

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "v1": {"stride_in_1x1": True},
    "v1.5": {},
    "v2": {"preactivation": True},
    "d": {"stem": "deep", "shortcut": "D"},
}

CIFAR_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "v1": {"block": "basic"},
    "v2": {"block": "bottleneck", "preactivation": True},
}


def imagenet_spec(depth: int, variant: str = "v1.5", **fields: Any) -> ResNetSpec:
    """The spec of an ImageNet net. Raises `UsageError` for an unknown depth, variant or field."""
    if depth not in DEPTHS:
        raise unknown("depth", depth, DEPTHS, "CIFAR depths: build_cifar_resnet")
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    block, blocks = DEPTHS[depth]
    return _spec({"block": block, "blocks": blocks, **VARIANTS[variant], **fields})


def cifar_spec(depth: int, variant: str = "v1", **fields: Any) -> ResNetSpec:
    """The spec of a CIFAR net of 6n+2 layers (basic blocks) or 9n+2 (bottlenecks) in three stages of 16, 32, 64.

    He et al. 2015, section 4.2; He et al. 2016, section 4. Raises `UsageError` for a depth that has no such n.
    """
    if variant not in CIFAR_VARIANTS:
        raise unknown("variant", variant, CIFAR_VARIANTS)
    fields = {"widths": (16, 32, 64), "stem": "cifar", "stem_width": 16, **CIFAR_VARIANTS[variant], **fields}
    layers = 6 if fields["block"] == "basic" else 9
    n, rest = divmod(depth - 2, layers)
    if rest or n < 1:
        near = [layers * k + 2 for k in (max(n, 1), max(n, 1) + 1)]
        raise UsageError(
            f"a CIFAR net of {fields['block']} blocks has {layers}n+2 layers, so not {depth}; "
            f"the nearest are {near[0]} and {near[1]}"
        )
    return _spec({"blocks": (n, n, n), **fields})


def _spec(fields: Mapping[str, Any]) -> ResNetSpec:
    known = [f.name for f in dataclasses.fields(ResNetSpec)]
    for name in fields:
        if name not in known:
            raise unknown("argument", name, known)
    return ResNetSpec(**fields)


@dataclass(frozen=True)
class NamedNetwork:
    """A row of the table of names: what `create_model(name)` builds."""

    family: Literal["resnet", "cifar_resnet"]
    depth: int
    variant: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> ResNetSpec:
        make = imagenet_spec if self.family == "resnet" else cifar_spec
        return make(self.depth, self.variant, **self.options)


def _names() -> dict[str, NamedNetwork]:
    he15, he16 = "He et al. 2015", "He et al. 2016"
    names: dict[str, NamedNetwork] = {}
    for depth in DEPTHS:
        names[f"resnet{depth}"] = NamedNetwork("resnet", depth, "v1.5", he15 if depth < 200 else he16)
    for depth in (50, 101, 152):
        names[f"resnet{depth}_v1"] = NamedNetwork("resnet", depth, "v1", he15)
    for depth in (50, 101, 152, 200):
        names[f"resnet{depth}_v2"] = NamedNetwork("resnet", depth, "v2", he16)
    for depth in (18, 34):
        names[f"plain{depth}"] = NamedNetwork("resnet", depth, "v1.5", he15, {"shortcut": "none"})
    xie, wide = "Xie et al. 2016", "Zagoruyko & Komodakis 2016"
    names["resnet50d"] = NamedNetwork("resnet", 50, "d", "He et al. 2018")
    names["resnext50_32x4d"] = NamedNetwork("resnet", 50, "v1.5", xie, {"cardinality": 32, "base_width": 4})
    names["resnext101_32x8d"] = NamedNetwork("resnet", 101, "v1.5", xie, {"cardinality": 32, "base_width": 8})
    names["wide_resnet50_2"] = NamedNetwork("resnet", 50, "v1.5", wide, {"base_width": 128})
    names["seresnet50"] = NamedNetwork("resnet", 50, "v1.5", "Hu et al. 2017", {"se_ratio": 1 / 16})
    for depth in (20, 32, 44, 56, 110, 1202):
        names[f"cifar_resnet{depth}"] = NamedNetwork("cifar_resnet", depth, "v1", he15, {"shortcut": "A"})
    for depth in (20, 32, 44, 56, 110):
        names[f"cifar_plain{depth}"] = NamedNetwork("cifar_resnet", depth, "v1", he15, {"shortcut": "none"})
    names["cifar_preact_resnet110"] = NamedNetwork("cifar_resnet", 110, "v2", he16, {"block": "basic", "shortcut": "B"})
    for depth in (164, 1001):
        names[f"cifar_preact_resnet{depth}"] = NamedNetwork("cifar_resnet", depth, "v2", he16, {"shortcut": "B"})
    # Wide ResNet counts the three shortcut convolutions as layers: 28 is 6n+4, so 26 here.
    wrn = {"block": "basic", "widths": (160, 320, 640), "shortcut": "B"}
    names["cifar_wrn28_10"] = NamedNetwork("cifar_resnet", 26, "v2", wide, wrn)
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
