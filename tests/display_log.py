"""A display that keeps what is reported to it, for tests of progress."""

from collections.abc import Sequence
from typing import Any


class DisplayLog:
    """A display that keeps what is reported to it."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def begin(self, what: str, total: float | None, unit: str | None) -> "DisplayLog":
        self.told.append(("begin", what, total, unit))
        return self

    def to(self, done: float, notes: Sequence[str], total: float | None) -> None:
        self.told.append(("to", done, *notes, total))

    def end(self) -> None:
        self.told.append(("end",))
