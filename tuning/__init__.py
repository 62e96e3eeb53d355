"""Searches for a good recipe, by KerasTuner, over this package's networks and its training.

`resnet_keras.tuning` where the package is installed; `tuning` in a checkout.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .hypermodel import ResNetHyperModel

__all__ = ["ResNetHyperModel"]


def __getattr__(name: str) -> Any:
    """Imported at its first use, for KerasTuner and TensorFlow take seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .hypermodel import ResNetHyperModel

    return ResNetHyperModel
