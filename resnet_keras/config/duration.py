"""Times as a user writes them. Standard library only."""

import re

from resnet_keras.errors import UsageError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(budget: str | None) -> float | None:
    """The seconds of a time such as 90s, 5m, 8h or 2d; None for None. Raises `UsageError` for another text."""
    if budget is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", budget)
    if not found or not float(found[1]):
        raise UsageError(f"budget must be a time such as 90s, 5m, 8h or 2d, not {budget!r}")
    return float(found[1]) * UNITS[found[2]]
