"""The names of the norms of ResNets, VGG and DenseNet. Standard library only."""

from collections.abc import Mapping
from typing import Any, Literal

Norm = Literal["batch", "sync_batch", "group", "group1"]
OLD_NORMS: Mapping[str, Norm] = {"layer": "group1"}
"""Words that older versions had for norms, which their files and configs still have."""


def rename_norm(spec: Any) -> None:
    """Give the norm of a frozen spec the name that it has today."""
    if isinstance(spec.norm, str) and spec.norm in OLD_NORMS:
        object.__setattr__(spec, "norm", OLD_NORMS[spec.norm])
