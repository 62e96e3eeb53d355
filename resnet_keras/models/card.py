"""What must travel with a model so that it is used rightly. Standard library only."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from resnet_keras.errors import UsageError, unknown

Interpolation = Literal["bilinear", "bicubic"]
Channels = Literal["RGB", "BGR"]
FORMAT_VERSION = 1
"""Of a card's dictionary, as `.keras` files and manifests have it; one without it is of version 1."""


@dataclass(frozen=True)
class ModelCard:
    """How a model's images are prepared, what its outputs mean, and where it comes from.

    It lives in the configuration of the model's `Preprocessing` layer, so a `.keras` file carries it however it was
    saved. Means and deviations are of pixels scaled to [0, 1], one a channel; the defaults are ImageNet's RGB.

    Raises:
        UsageError: (a ValueError) for a field that no images can have.

    Examples:
        >>> card = rk.ModelCard(mean=(0.5,), std=(0.25,), crop=1.0, labels=("cat", "dog"))
        >>> model = rk.build_cifar_resnet(8, classes=2, include_preprocessing=card)  # takes pixels, 0 to 255
        >>> rk.model_card(model).labels
        ('cat', 'dog')
        >>> rk.ModelCard.from_dict(card.to_dict()) == card
        True
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Of pixels in [0, 1]: one number for all channels, or one a channel."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Deviation of pixels in [0, 1], as many numbers as `mean`."""
    crop: float = 0.875
    """Share of the shorter side that the centre crop keeps: the image is resized to `size / crop`, then cropped."""
    interpolation: Interpolation = "bilinear"
    """Of the resizing before the crop."""
    input_size: tuple[int, ...] = ()
    """Height and width of the images that the weights are for; empty where nothing says so."""
    channels: Channels = "RGB"
    """The order in which the network takes the colours; means and deviations are in the order of RGB all the same."""
    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of the outputs; empty where nothing says them."""
    label_ids: tuple[str, ...] = ()
    """Names for machines, such as WordNet's; empty where there are none."""
    network: str = ""
    """Name of the network, such as "resnet50"."""
    data: str = ""
    """Name of the data that the network was trained on."""
    recipe: str = ""
    """Name of the recipe that trained it."""
    source: str = ""
    """Where the weights are from, when no run here has trained them."""
    license: str = ""
    """Identifier of the weights' license, such as "apache-2.0"."""
    claims: Mapping[str, float] = field(default_factory=dict)
    """Accuracies that the source of the weights states; nothing here has measured them."""
    test_flip: bool = False
    """The metrics are of the mean of an image's scores and its mirror image's."""
    thresholds: tuple[float, ...] = ()
    """Of labels that are each a question of their own: the probability from which on a label is given. Empty where an
    image is of one class."""
    temperature: float | None = None
    """What the logits were divided by, fitted on validation images (Guo et al. 2017): the weights of the head are so
    already. None where it was not fitted."""
    int8_ranges: tuple[float, ...] = ()
    """Of a network that was trained in int8 (`quantize`): the largest value of each of its maps, in the order in which
    an export lowers them. The metrics are of int8 then. Empty for any other, whose ranges an export measures."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Measured on the test split of `data` when training ended: loss, accuracy, top5_accuracy, examples."""

    def __post_init__(self) -> None:
        for name in ("mean", "std", "input_size", "labels", "label_ids", "thresholds", "int8_ranges"):
            value = getattr(self, name)
            if not isinstance(value, tuple | list):
                raise UsageError(f"{name} must be a list, not {value!r}")
            object.__setattr__(self, name, tuple(value))
        if self.label_ids and len(self.label_ids) != len(self.labels):
            raise UsageError(f"label_ids must be as many as labels: {len(self.label_ids)} and {len(self.labels)}")
        if self.thresholds and len(self.thresholds) != len(self.labels):
            raise UsageError(f"thresholds must be as many as labels: {len(self.thresholds)} and {len(self.labels)}")
        if self.channels not in get_args(Channels):
            raise unknown("order of channels", self.channels, get_args(Channels))
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise UsageError(f"mean and std need one number a channel, std above 0, not {self.mean} and {self.std}")
        if not 0 < self.crop <= 1:
            raise UsageError(f"crop must be above 0 and at most 1, not {self.crop}")

    @property
    def several(self) -> bool:
        """Whether an image can have several labels, or none."""
        return bool(self.thresholds)

    def fits(self, channels: int | None) -> bool:
        """Whether images of so many channels can be normalised by this card: one mean for all, or one for each."""
        return len(self.mean) in (1, channels)

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON has it, with its `format_version`."""
        fields = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        return {"format_version": FORMAT_VERSION, **fields}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "ModelCard":
        """The card that `to_dict` wrote.

        Raises:
            UsageError: (a ValueError) for one of a later format.
        """
        fields = dict(stored)
        version = fields.pop("format_version", FORMAT_VERSION)
        if version not in range(1, FORMAT_VERSION + 1):
            raise UsageError(
                f"the model card has format_version {version!r}, and this version of resnet-keras reads up to "
                f"{FORMAT_VERSION}; install a newer one"
            )
        return cls(**fields)


def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """ILSVRC 2012's 1,000 classes in their order: WordNet's identifiers, and a name of each."""
    lines = Path(__file__).with_name("imagenet_classes.txt").read_text("utf-8").splitlines()
    ids, labels = zip(*(line.split(" ", 1) for line in lines), strict=True)
    return ids, labels
