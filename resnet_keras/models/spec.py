"""What a network is: `ResNetSpec`, `VGGSpec`, `DenseNetSpec` and the tables of depths and variants.

A variant is a row: fields of `ResNetSpec` that differ from its defaults. Nothing here imports Keras: standard
library only.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from resnet_keras.errors import UsageError, check_types, is_whole, require, unknown
from resnet_keras.models.norm_names import Norm, rename_norm

BlockKind = Literal["basic", "bottleneck"]
Stem = Literal["imagenet", "cifar", "cifar_pool", "deep", "deep_strided", "slim"]
Shortcut = Literal["A", "B", "C", "D", "none"]
Initialization = Literal["fan_out", "fan_in", "lecun"]
Spec = TypeVar("Spec")


@dataclass(frozen=True)
class BlockSpec:
    """What the blocks of a residual network have in common. Raises `UsageError` for a value that no block can have."""

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
    """Squeeze-and-excitation with this fraction of the channels (Hu et al. 2017: 1/16); 0 for none."""
    norm: Norm = "batch"
    """Batch normalisation over one replica's batch, or over all replicas' (`sync_batch`); normalisation of each image
    over groups of channels (`group`, Wu & He 2018: 32 where they divide) or over one group of all of them (`group1`,
    which they call layer norm, and so did this field; a Transformer's is over the channels of one position)."""
    weight_standardization: bool = False
    """Each filter has mean 0 and variance 1 (Qiao et al. 2019), which makes group norm as good as batch norm."""
    zero_init_gamma: bool = False
    """Every block starts as the identity: the last norm's gamma (pre-activation: the last kernel) starts at zero
    (Goyal et al. 2017, section 5.1)."""
    initialization: Initialization = "fan_out"
    """Kernels start as normals of variance 2 / (kernel area x filters), or of 2 / (kernel area x channels read)
    (`fan_in`; He et al. 2015b, equations 14 and 10); `lecun`: truncated ones of half the latter, TensorFlow 1's own,
    in squeeze-and-excitation too, which else starts as Glorot's."""
    activation: str = "relu"
    antialias: bool = False
    """Blur where pixels are left out: in blocks, shortcuts and the stem's pool (Zhang 2019)."""

    def __post_init__(self) -> None:
        rename_norm(self)
        check_types(self)
        require(self.cardinality >= 1, "cardinality", "at least 1", self.cardinality)
        require(0.0 <= self.se_ratio <= 1.0, "se_ratio", "between 0 and 1", self.se_ratio)


@dataclass(frozen=True)
class ResNetSpec:
    """A residual network, stem to last stage, and the dropout before the builder's head.

    The fields of `BlockSpec` are documented there. Raises `UsageError` for a value that no network can have.

    Examples:
        >>> resnet18d = rk.ResNetSpec(blocks=(2, 2, 2, 2), shortcut="D", stem="deep")
    """

    blocks: tuple[int, ...]
    """Blocks in each stage; every stage after the first halves height and width."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Filters of each stage before the bottleneck's expansion (He et al. 2015, Table 1)."""
    block: BlockKind = "basic"
    """`basic`: two 3x3; `bottleneck`: 1x1, 3x3, 1x1 with four times the filters (He et al. 2015, Figure 5)."""
    stem: Stem = "imagenet"
    """`imagenet`: 7x7 stride 2 and max-pool; `deep`: three 3x3 and max-pool (He et al. 2018, ResNet-C);
    `deep_strided`: three 3x3, and a fourth with stride 2 for the max-pool (Bello et al. 2021); `cifar`: 3x3;
    `cifar_pool`: 3x3 and a 2x2 max-pool; `slim`: the 7x7 has a bias and the pool pads with zeros (TF-slim's and
    keras.applications' pre-activation nets)."""
    stem_width: int = 64
    """Filters of the stem's output; the deep stem's first two convolutions have half as many."""
    shortcut: Shortcut = BlockSpec.shortcut
    preactivation: bool = BlockSpec.preactivation
    stride_in_1x1: bool = BlockSpec.stride_in_1x1
    stride_in_last_block: bool = False
    """The last block of a stage halves height and width for the next one, its shortcut by leaving pixels out, as in
    TF-slim and keras.applications' pre-activation nets; else the first block of the next stage does."""
    cardinality: int = BlockSpec.cardinality
    base_width: int = BlockSpec.base_width
    se_ratio: float = BlockSpec.se_ratio
    norm: Norm = BlockSpec.norm
    weight_standardization: bool = BlockSpec.weight_standardization
    zero_init_gamma: bool = BlockSpec.zero_init_gamma
    initialization: Initialization = BlockSpec.initialization
    activation: str = BlockSpec.activation
    stochastic_depth: float = 0.0
    """Chance that training drops the last block's branch, linear from the first block's (Huang et al. 2016)."""
    stochastic_depth_by: Literal["block", "stage"] = "block"
    """What it rises by. stage: the blocks of a stage are alike, from 2/(n + 1) of it in the first of n stages, as in
    ResNet-RS's code."""
    antialias: bool = BlockSpec.antialias
    output_stride: int | None = None
    """Input pixels to one of the last stage, along one side: 8 or 16 keep the last stages large and dilate their
    convolutions instead (Chen et al. 2017); None for the net's own."""
    dropout: float = 0.0
    """Share of the features that training drops before the head."""
    head_std: float = 0.0
    """Standard deviation of the head's first weights (Goyal et al. 2017, section 5.1: 0.01); 0 for He's."""

    def __post_init__(self) -> None:
        as_tuples(self, "blocks", "widths")
        rename_norm(self)
        check_types(self)
        check_stages("blocks", self.blocks, self.widths)
        require(self.stem_width >= 2, "stem_width", "at least 2", self.stem_width)
        _ = self.block_spec  # which checks itself
        narrowest = min(self.widths) * self.base_width // 64
        require(narrowest >= 1, "base_width", f"at least {-(-64 // min(self.widths))} here", self.base_width)
        if self.block == "basic" and (self.cardinality, self.base_width) != (1, 64):
            raise UsageError("cardinality and base_width belong to block='bottleneck'; widen a basic net with widths=")
        if self.shortcut == "none" and (self.zero_init_gamma or self.stochastic_depth):
            name = "zero_init_gamma" if self.zero_init_gamma else "stochastic_depth"
            raise UsageError(f"{name} would silence a plain net: with shortcut='none' nothing goes round a block")
        if self.shortcut == "none" and self.preactivation:
            raise UsageError("preactivation clears the way of a shortcut, and with shortcut='none' there is none")
        if self.weight_standardization and self.preactivation and self.zero_init_gamma:
            raise UsageError(
                "zero_init_gamma starts a pre-activation branch with a kernel of zeros, which weight_standardization "
                "cannot bring to a variance of 1; choose one of the two"
            )
        if self.stem == "slim" and not self.preactivation:
            raise UsageError("stem='slim' belongs to preactivation=True; elsewhere it is stem='imagenet'")
        if self.stride_in_last_block and self.shortcut != "B":
            raise UsageError(f"stride_in_last_block belongs to shortcut='B', not {self.shortcut!r}")
        require(0.0 <= self.stochastic_depth < 1.0, "stochastic_depth", "at least 0 and below 1", self.stochastic_depth)
        require(0.0 <= self.dropout < 1.0, "dropout", "at least 0 and below 1", self.dropout)
        require(self.head_std >= 0.0, "head_std", "at least 0", self.head_std)
        strides = [self.stem_stride * 2**k for k in range(len(self.blocks))]
        if self.output_stride is not None and self.output_stride not in strides:
            raise UsageError(f"output_stride of this net can be {_either(strides)}, not {self.output_stride}")

    @property
    def block_spec(self) -> BlockSpec:
        """The fields that the blocks have in common."""
        return BlockSpec(**{field.name: getattr(self, field.name) for field in dataclasses.fields(BlockSpec)})

    @property
    def stem_stride(self) -> int:
        """Input pixels to one of the first stage, along one side."""
        return {"cifar": 1, "cifar_pool": 2}.get(self.stem, 4)

    @property
    def total_stride(self) -> int:
        """Input pixels to one of the last stage, along one side, where no dilation replaces a stride."""
        return self.stem_stride * 2 ** (len(self.blocks) - 1)


@dataclass(frozen=True)
class VGGSpec:
    """A plain net of 3x3 convolutions, max-pools and two wide dense layers (Simonyan & Zisserman 2014, Table 1)."""

    convolutions: tuple[int, ...]
    """3x3 convolutions in each stage; every stage ends in a max-pool that halves height and width."""
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: int = 4096
    """Units of each of the two dense layers before the classifier."""
    norm: Norm | None = None
    weight_standardization: bool = False
    activation: str = "relu"
    dropout: float = 0.5
    """After each of the two dense layers."""
    head_std: float = 0.0
    """As in `ResNetSpec`."""

    def __post_init__(self) -> None:
        as_tuples(self, "convolutions", "widths")
        rename_norm(self)
        check_types(self)
        check_stages("convolutions", self.convolutions, self.widths)
        require(self.hidden >= 1, "hidden", "at least 1", self.hidden)
        if self.weight_standardization and not self.norm:
            raise UsageError("weight_standardization needs a norm behind it; give batch_norm=True or norm='group'")
        require(0.0 <= self.dropout < 1.0, "dropout", "at least 0 and below 1", self.dropout)
        require(self.head_std >= 0.0, "head_std", "at least 0", self.head_std)

    @property
    def total_stride(self) -> int:
        """Input pixels to one of the last pool's, along one side."""
        return 2 ** len(self.convolutions)


@dataclass(frozen=True)
class DenseNetSpec:
    """A net whose layers each read all earlier ones of their stage (Huang et al. 2017, section 3 and Table 1)."""

    layers: tuple[int, ...]
    """Layers in each stage; between stages a transition halves height and width."""
    growth_rate: int = 32
    """Channels that a layer adds."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    stem_width: int = 64
    bottleneck: bool = True
    """A 1x1 to four times the growth rate before each 3x3 (the B of DenseNet-BC)."""
    compression: float = 0.5
    """Share of the channels that a transition keeps (the C of DenseNet-BC)."""
    se_ratio: float = 0.0
    norm: Norm = "batch"
    weight_standardization: bool = False
    activation: str = "relu"
    layer_dropout: float = 0.0
    """After each 3x3; the paper has 0.2 where it trains without augmentation."""
    dropout: float = 0.0
    """Share of the features that training drops before the head."""
    head_std: float = 0.0
    """As in `ResNetSpec`."""

    def __post_init__(self) -> None:
        as_tuples(self, "layers")
        rename_norm(self)
        check_types(self)
        check_stages("layers", self.layers, self.layers)
        require(self.growth_rate >= 1, "growth_rate", "at least 1", self.growth_rate)
        require(self.stem_width >= 1, "stem_width", "at least 1", self.stem_width)
        require(0.0 < self.compression <= 1.0, "compression", "above 0 and at most 1", self.compression)
        require(0.0 <= self.se_ratio <= 1.0, "se_ratio", "between 0 and 1", self.se_ratio)
        require(self.head_std >= 0.0, "head_std", "at least 0", self.head_std)
        for name in ("layer_dropout", "dropout"):
            require(0.0 <= getattr(self, name) < 1.0, name, "at least 0 and below 1", getattr(self, name))

    @property
    def total_stride(self) -> int:
        """Input pixels to one of the last stage, along one side."""
        return (1 if self.stem == "cifar" else 4) * 2 ** (len(self.layers) - 1)


def as_tuples(spec: Any, *names: str) -> None:
    """Lists, and texts such as "16,32,64" of the command line, become tuples."""
    for name in names:
        value = getattr(spec, name)
        if isinstance(value, str) and all(part.strip().isdecimal() for part in value.split(",")):
            value = [int(part) for part in value.split(",")]
        if isinstance(value, list):
            object.__setattr__(spec, name, tuple(value))


def check_stages(name: str, counts: tuple[int, ...], widths: tuple[int, ...]) -> None:
    if not counts or len(counts) != len(widths) or min(counts + widths) < 1:
        raise UsageError(f"{name} and widths need one positive number a stage each, not {counts} and {widths}")


def _either(numbers: list[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last


DEPTHS: Mapping[int, tuple[BlockKind, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
    270: ("bottleneck", (4, 29, 53, 4)),
    350: ("bottleneck", (4, 36, 72, 4)),
    420: ("bottleneck", (4, 44, 87, 4)),
}
"""The ImageNet nets (He et al. 2015, Table 1; 200: He et al. 2016; above: Bello et al. 2021)."""

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "v1": {"stride_in_1x1": True},
    "v1.5": {},
    "v2": {"preactivation": True},
    "v2_slim": {"preactivation": True, "stem": "slim", "stride_in_last_block": True},
    "d": {"stem": "deep", "shortcut": "D"},
    "rs": {
        "stem": "deep_strided",
        "shortcut": "D",
        "se_ratio": 0.25,
        "stochastic_depth_by": "stage",
        "initialization": "lecun",
        "head_std": 0.01,
    },
}

CIFAR_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "v1": {"block": "basic"},
    "v2": {"block": "bottleneck", "preactivation": True, "stride_in_1x1": True},
}
"""v2's bottlenecks stride in their first 1x1, as its authors' code has it: KaimingHe/resnet-1k-layers,
resnet-pre-act.lua, lines 43 and 70."""

VGG_DEPTHS: Mapping[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Simonyan & Zisserman 2014, Table 1, configurations A, B, D and E."""

VGG_GRID = 7
"""Side of the map that VGG's dense layers read; another size is average-pooled to it, as in torchvision."""

DENSENET_DEPTHS: Mapping[int, Mapping[str, Any]] = {
    121: {"layers": (6, 12, 24, 16)},
    161: {"layers": (6, 12, 36, 24), "growth_rate": 48, "stem_width": 96},
    169: {"layers": (6, 12, 32, 32)},
    201: {"layers": (6, 12, 48, 32)},
    264: {"layers": (6, 12, 64, 48)},
}
"""Huang et al. 2017, Table 1, and the 161 layers of its authors' code."""


def imagenet_spec(depth: int, variant: str = "v1.5", **fields: Any) -> ResNetSpec:
    """The spec of an ImageNet net. Raises `UsageError` for an unknown depth, variant or field."""
    if not is_whole(depth) or depth not in DEPTHS:
        raise unknown("depth", depth, DEPTHS, "CIFAR depths: build_cifar_resnet")
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    block, blocks = DEPTHS[depth]
    return spec_of(ResNetSpec, {"block": block, "blocks": blocks, **VARIANTS[variant], **fields})


def cifar_spec(depth: int, variant: str = "v1", **fields: Any) -> ResNetSpec:
    """The spec of a CIFAR net of 6n+2 layers (basic blocks) or 9n+2 (bottlenecks) in three stages of 16, 32, 64.

    He et al. 2015, section 4.2; He et al. 2016, section 4. Raises `UsageError` for a depth that has no such n.
    """
    if variant not in CIFAR_VARIANTS:
        raise unknown("variant", variant, CIFAR_VARIANTS)
    row = dict(CIFAR_VARIANTS[variant])
    if fields.get("block", row["block"]) == "basic":
        row.pop("stride_in_1x1", None)  # which has no 1x1
    fields = {"widths": (16, 32, 64), "stem": "cifar", "stem_width": 16, **row, **fields}
    layers = 6 if fields["block"] == "basic" else 9
    n = _per_stage(f"a CIFAR net of {fields['block']} blocks", depth, layers, 2)
    return spec_of(ResNetSpec, {"blocks": (n, n, n), **fields})


def vgg_spec(depth: int, batch_norm: bool = False, **fields: Any) -> VGGSpec:
    """The spec of a VGG net. Raises `UsageError` for an unknown depth or field."""
    if not is_whole(depth) or depth not in VGG_DEPTHS:
        raise unknown("depth", depth, VGG_DEPTHS)
    return spec_of(VGGSpec, {"convolutions": VGG_DEPTHS[depth], "norm": "batch" if batch_norm else None, **fields})


def densenet_spec(depth: int, **fields: Any) -> DenseNetSpec:
    """The spec of a DenseNet: a depth of the ImageNet table, or with `stem="cifar"` three stages of (depth - 4) / 3.

    Raises `UsageError` for a depth that cannot be, or an unknown field.
    """
    if fields.get("stem", "imagenet") != "cifar":
        if not is_whole(depth) or depth not in DENSENET_DEPTHS:
            raise unknown("depth", depth, DENSENET_DEPTHS, "any other: stem='cifar'")
        return spec_of(DenseNetSpec, {**DENSENET_DEPTHS[depth], **fields})
    bottleneck, growth = fields.get("bottleneck", True), fields.setdefault("growth_rate", 12)
    n = _per_stage(
        f"a CIFAR DenseNet {'with' if bottleneck else 'without'} bottlenecks", depth, 6 if bottleneck else 3, 4
    )
    own = {"layers": (n, n, n), "stem_width": 2 * growth if bottleneck else 16}
    return spec_of(DenseNetSpec, {**own, "compression": 0.5 if bottleneck else 1.0, **fields})


def _per_stage(what: str, depth: int, layers: int, rest: int) -> int:
    """The n of a depth that is `layers * n + rest`."""
    require(is_whole(depth), "depth", "a whole number", repr(depth))
    n, left = divmod(depth - rest, layers)
    if left or n < 1:
        near = [layers * k + rest for k in (max(n, 1), max(n, 1) + 1)]
        raise UsageError(f"{what} has {layers}n+{rest} layers, so not {depth}; the nearest are {near[0]} and {near[1]}")
    return n


BUILDER_ARGUMENTS = (
    "include_top",
    "weights",
    "input_tensor",
    "input_shape",
    "pooling",
    "classes",
    "classifier_activation",
    "include_preprocessing",
    "name",
    "dtype",
)
"""What the functions `build_...` take besides a spec's fields: the nearest to a wrong argument may be one of these."""


def spec_of(kind: type[Spec], fields: Mapping[str, Any]) -> Spec:
    """A spec of these fields. Raises `UsageError` for one that its kind does not have, and as the spec does."""
    known = [f.name for f in dataclasses.fields(cast(Any, kind))]
    for name in fields:
        if name not in known and name in ResNetSpec.__dataclass_fields__:
            raise UsageError(f"{name} is an option of ResNets; a {kind.__name__[:-4]} has no such part")
        if name not in known:
            raise unknown("argument", name, [*BUILDER_ARGUMENTS, *known])
    return kind(**fields)
