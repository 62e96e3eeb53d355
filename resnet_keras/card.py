"""What must travel with a model so that it is used rightly. Standard library only."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from resnet_keras.errors import UsageError

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class ModelCard:
    """How a model's pictures are prepared, what its outputs mean, and where it comes from.

    It lives in the configuration of the model's `Preprocessing` layer, so a `.keras` file carries it however it was
    saved. Means and deviations are of pixels scaled to [0, 1], one a channel; the defaults are ImageNet's RGB.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop: float = 0.875
    """Share of the shorter side that the centre crop keeps: the picture is resized to `size / crop`, then cropped."""
    interpolation: Interpolation = "bilinear"
    labels: tuple[str, ...] = ()
    network: str = ""
    data: str = ""
    recipe: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Measured on the test split of `data` when training ended: loss, accuracy, top5_accuracy, examples."""

    def __post_init__(self) -> None:
        for name in ("mean", "std", "labels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise UsageError(f"mean and std need one number a channel, std above 0, not {self.mean} and {self.std}")
        if not 0 < self.crop <= 1:
            raise UsageError(f"crop must be above 0 and at most 1, not {self.crop}")

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
