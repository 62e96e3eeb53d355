"""What the networks of layer norm are: `ConvNeXtSpec`, `ViTSpec`, and their sizes. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from resnet_keras.errors import UsageError, check_types, require, unknown
from resnet_keras.models.spec import as_tuples, check_stages, spec_of

Placement = Literal["pre", "post"]
FirstKernels = Literal["normal", "glorot"]


@dataclass(frozen=True)
class ConvNeXtSpec:
    """A ResNet brought up to the Transformer (Liu et al. 2022, section 2 and Figure 4).

    Raises `UsageError` for a value that no network can have.
    """

    blocks: tuple[int, ...] = (3, 3, 9, 3)
    """Blocks in each stage; every stage after the first halves height and width."""
    widths: tuple[int, ...] = (96, 192, 384, 768)
    """Channels of each stage."""
    patch_size: int = 4
    """Side of the squares of pixels that the stem makes one position of: 1 or 2 for small images."""
    kernel_size: int = 7
    """Of the depthwise convolutions."""
    expansion: int = 4
    """Hidden channels of a block, as a multiple of its own."""
    norm_placement: Placement = "pre"
    """`pre`: the layer norm is in the branch; `post`: it follows the sum (Xiong et al. 2020, Figure 1)."""
    layer_scale: float = 1e-6
    """What the gammas of the branches start at (Touvron et al. 2021, equation 4); 0 for none."""
    initialization: FirstKernels = "normal"
    """First kernels of the branches. normal: of deviation 0.02, as in the authors' code, which suits wide blocks;
    glorot: by the fans (Glorot & Bengio 2010)."""
    activation: str = "gelu"
    stochastic_depth: float = 0.0
    """Chance that training drops the last block's branch for an image; it rises along a line from the first block."""
    dropout: float = 0.0
    """Share of the features that training drops before the head."""
    head_std: float = 0.02
    """Standard deviation of the head's first weights, that of all kernels; 0 for He's."""

    def __post_init__(self) -> None:
        as_tuples(self, "blocks", "widths")
        check_types(self)
        check_stages("blocks", self.blocks, self.widths)
        check_norm_blocks(self)
        require(self.kernel_size % 2 == 1 and self.kernel_size > 0, "kernel_size", "odd", self.kernel_size)

    @property
    def total_stride(self) -> int:
        """Input pixels to one of the last stage, along one side."""
        return self.patch_size * 2 ** (len(self.blocks) - 1)


@dataclass(frozen=True)
class ViTSpec:
    """A Transformer on patches (Dosovitskiy et al. 2020, section 3.1 and Figure 1).

    Raises `UsageError` for a value that no network can have.
    """

    blocks: int = 12
    """Of attention and two dense layers each."""
    width: int = 768
    """Channels of a token."""
    heads: int = 12
    """Equal parts of the channels that attend apart."""
    patch_size: int = 16
    """Side of the squares of pixels that are a token each."""
    image_size: int = 224
    """Side of the images that the position embeddings are of; for others they are interpolated."""
    expansion: int = 4
    """Hidden channels of the two dense layers, as a multiple of the width."""
    pool: Literal["token", "mean"] = "token"
    """What the classifier reads: a class token beside the patches, or the mean of the patches without one (Beyer et al.
    2022)."""
    norm_placement: Placement = "pre"
    """`pre`: the layer norms are before attention and dense layers; `post`: behind the sums (Xiong et al. 2020)."""
    layer_scale: float = 0.0
    """What the gammas of the branches start at; 0 for none (DeiT III has them: Touvron et al. 2022)."""
    initialization: FirstKernels = "normal"
    """First kernels of the branches. normal: of deviation 0.02, as in DeiT's code and timm, which suits wide blocks;
    glorot: by the fans (Glorot & Bengio 2010), as in Dosovitskiy's code (google-research/vision_transformer at
    06862cd, vit_jax/models_vit.py)."""
    activation: str = "gelu"
    stochastic_depth: float = 0.0
    """Chance that training drops the last block's branches for an image; it rises along a line from the first block."""
    stochastic_depth_by: Literal["block", "none"] = "block"
    """What the chance rises by; with none, all blocks have the same, as DeiT III's."""
    dropout: float = 0.0
    """Share of the features that training drops before the head."""
    head_std: float = 0.02
    """Standard deviation of the head's first weights, that of all kernels; 0 for He's."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("blocks", "width", "heads"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        check_norm_blocks(self)
        if self.width % self.heads:
            raise UsageError(f"heads must divide the width, {self.width}, not be {self.heads}")
        if self.image_size < 1 or self.image_size % self.patch_size:
            raise UsageError(f"patch_size must divide the image_size, {self.image_size}, not be {self.patch_size}")

    @property
    def total_stride(self) -> int:
        """Input pixels to a token, along one side."""
        return self.patch_size


def check_norm_blocks(spec: Any) -> None:
    """Raise `UsageError` for what no network of blocks with layer norm can have."""
    for name in ("patch_size", "expansion"):
        require(getattr(spec, name) >= 1, name, "at least 1", getattr(spec, name))
    for name in ("layer_scale", "head_std"):
        require(getattr(spec, name) >= 0, name, "at least 0", getattr(spec, name))
    for name in ("stochastic_depth", "dropout"):
        require(0.0 <= getattr(spec, name) < 1.0, name, "at least 0 and below 1", getattr(spec, name))


CONVNEXT_SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {},
    "small": {"blocks": (3, 3, 27, 3)},
    "base": {"blocks": (3, 3, 27, 3), "widths": (128, 256, 512, 1024)},
    "large": {"blocks": (3, 3, 27, 3), "widths": (192, 384, 768, 1536)},
}
"""Liu et al. 2022, section 3."""


def convnext_spec(size: str, **fields: Any) -> ConvNeXtSpec:
    """The spec of a ConvNeXt. Raises `UsageError` for an unknown size or field."""
    if not isinstance(size, str) or size not in CONVNEXT_SIZES:
        raise unknown("size", size, CONVNEXT_SIZES)
    return spec_of(ConvNeXtSpec, {**CONVNEXT_SIZES[size], **fields})


VIT_SIZES: Mapping[str, Mapping[str, Any]] = {
    "ti16": {"width": 192, "heads": 3},
    "s16": {"width": 384, "heads": 6},
    "b16": {},
    "b32": {"patch_size": 32},
    "l16": {"blocks": 24, "width": 1024, "heads": 16},
}
"""Dosovitskiy et al. 2020, Table 1; ti16 and s16: Touvron et al. 2020, Table 1."""


def vit_spec(size: str, **fields: Any) -> ViTSpec:
    """The spec of a Vision Transformer. Raises `UsageError` for an unknown size or field."""
    if not isinstance(size, str) or size not in VIT_SIZES:
        raise unknown("size", size, VIT_SIZES)
    return spec_of(ViTSpec, {**VIT_SIZES[size], **fields})
