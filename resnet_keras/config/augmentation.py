"""How training images are changed at random: `Augmentation`. Standard library only."""

from dataclasses import dataclass
from typing import Literal

from resnet_keras.errors import check_types, require


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images, in this order, drawn anew for each image.

    Examples:
        >>> rk.Augmentation(crop="resized", flip=True, policy="trivialaugment", mixup=0.2, cutmix=1.0).mixes
        True
    """

    crop: Literal["none", "pad", "resized", "distorted", "scale"] = "none"
    """none: the evaluation crop; pad: pad and crop back (small images); resized: a random crop, resized (large images),
    as torchvision and timm draw it; distorted: as TensorFlow draws it, with smaller parts; scale: resize the shorter
    side at random, then crop (He et al. 2015)."""
    pad: int = 4
    """Pixels on each side, for crop=pad."""
    pad_fill: Literal["mean", "reflection"] = "mean"
    """What they show: the mean colour, or the mirrored image."""
    min_area: float = 0.08
    """Least fraction of the image's area that crop=resized and crop=distorted keep."""
    crop_interpolation: Literal["bilinear", "bicubic", "random"] = "bilinear"
    """Interpolation of these two; random: bilinear or bicubic, drawn for each image, as timm does."""
    scale_range: tuple[float, ...] = (256 / 224, 480 / 224)
    """For crop=scale: least and greatest shorter side, as a multiple of the network's input size."""
    flip: bool = False
    """Flip each image left to right with probability 1/2."""
    policy: Literal[
        "none", "randaugment", "randaugment-increasing", "randaugment-rs", "trivialaugment", "three-augment"
    ] = "none"
    """randaugment: several operations of one magnitude (Cubuk et al. 2019), torchvision's fourteen;
    randaugment-increasing: timm's, each farther from the image the greater the magnitude; randaugment-rs: the sixteen
    of ResNet-RS's code (Bello et al. 2021); trivialaugment: one operation of a random magnitude (Mueller & Hutter
    2021); three-augment: DeiT III's, each image grey, solarized or blurred (Touvron et al. 2022)."""
    fill: Literal["mean", "black", "grey"] = "mean"
    """Colour of what the policy's warps bare: the mean of the images, black, or the grey of 128."""
    operations: int = 2
    """For randaugment: operations per image."""
    magnitude: float = 9.0
    """For randaugment: magnitude of the operations, 0 to 10; for randaugment-rs up to 30, of which ResNet-RS takes 10
    and 15."""
    magnitude_std: float = 0.0
    """For randaugment: standard deviation of the magnitude between operations."""
    operation_probability: float = 1.0
    """For randaugment: probability that a drawn operation is applied."""
    jitter: float = 0.0
    """Brightness, contrast and saturation are each scaled by 1 - jitter to 1 + jitter."""
    lighting: float = 0.0
    """Deviation of a step along the principal components of ImageNet's colours (Krizhevsky et al. 2012: 0.1)."""
    erasing: float = 0.0
    """Probability of random erasing (Zhong et al. 2017)."""
    erasing_fill: Literal["noise", "mean", "normal"] = "noise"
    """What random erasing puts in: noise, the mean of the images, or normal noise of their mean and deviation, which is
    timm's pixel mode."""
    mixup: float = 0.0
    """Alpha of the beta distribution of MixUp, which blends pairs of images (Zhang et al. 2017); 0 for none."""
    cutmix: float = 0.0
    """Alpha of the beta distribution of CutMix, which pastes a box of one image into another (Yun et al. 2019); 0 for
    none. With MixUp too, each batch has one of the two at random."""
    mix_probability: float = 1.0
    """Probability that a batch is mixed."""
    repeats: int = 1
    """Times that a batch has each image, augmented anew each time (Hoffer et al. 2019; Berman et al. 2019). An epoch
    has as many steps as without, so it has fewer different images."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.pad >= 1, "pad", "at least 1", self.pad)
        require(0 < self.min_area <= 1, "min_area", "above 0 and at most 1", self.min_area)
        sides = self.scale_range
        require(len(sides) == 2 and 1 <= sides[0] <= sides[1], "scale_range", "two rising numbers from 1", sides)
        require(self.operations >= 1, "operations", "at least 1", self.operations)
        most = 30 if self.policy == "randaugment-rs" else 10
        require(0 <= self.magnitude <= most, "magnitude", f"between 0 and {most}", self.magnitude)
        require(self.magnitude_std >= 0, "magnitude_std", "at least 0", self.magnitude_std)
        require(0 <= self.jitter < 1, "jitter", "at least 0 and below 1", self.jitter)
        for name in ("operation_probability", "erasing", "mix_probability"):
            require(0 <= getattr(self, name) <= 1, name, "between 0 and 1", getattr(self, name))
        for name in ("lighting", "mixup", "cutmix"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        require(self.repeats >= 1, "repeats", "at least 1", self.repeats)

    @property
    def mixes(self) -> bool:
        """Whether images and labels are mixed in pairs."""
        return bool(self.mixup or self.cutmix) and self.mix_probability > 0
