"""Progress of what takes long: whoever works says here how far it is, and a program may install what shows it.

Without one nothing is shown, as in scripts and notebooks. Standard library only.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Bar(Protocol):
    """A task on a display."""

    def to(self, done: float, notes: Sequence[str], total: float | None) -> None:
        """Show that so much of the total is done."""
        ...

    def end(self) -> None: ...


class Display(Protocol):
    """What shows tasks, such as the bars of the command line."""

    def begin(self, what: str, total: float | None, unit: str | None) -> Bar:
        """Show a task: of so many units, or None where nobody knows."""
        ...


class _Silent:
    """Display and bar in one, which show nothing."""

    def begin(self, what: str, total: float | None, unit: str | None) -> Bar:
        return self

    def to(self, done: float, notes: Sequence[str], total: float | None) -> None:
        pass

    def end(self) -> None:
        pass


SILENT: Display = _Silent()
_installed: list[Display] = []


@contextlib.contextmanager
def shown_by(display: Display) -> Iterator[None]:
    """Within it, a display shows what is in progress; `SILENT` nothing, of other libraries' own bars neither."""
    _installed.append(display)
    try:
        yield
    finally:
        _installed.remove(display)


def has_display() -> bool:
    """Whether a display is installed, be it one that shows nothing."""
    return bool(_installed)


class Progress:
    """How far one task is.

    Args:
        what: in a few words, such as "reading images".
        total: of units; None where nobody knows how many, and then the time that it has taken is shown.
        unit: in the plural, such as "images", by which the rate is said; "B" for bytes. Empty: no rate; None: no rate
            and no time left.
    """

    def __init__(self, what: str, total: float | None = None, unit: str | None = "") -> None:
        self.done, self.total = 0.0, total
        self._bar = _installed[-1].begin(what, total, unit) if _installed else None

    def add(self, count: float = 1) -> None:
        """So much more is done."""
        self.to(self.done + count)

    def to(self, done: float, notes: Sequence[str] = (), total: float | None = None) -> None:
        """So much is done.

        Args:
            done: units.
            notes: what else is to be seen, the most important last.
            total: where it is known only now, or has changed.
        """
        self.done, self.total = done, self.total if total is None else total
        if self._bar:
            self._bar.to(done, notes, self.total)

    def end(self) -> None:
        """The task is over, finished or not."""
        if self._bar:
            self._bar.end()


@contextlib.contextmanager
def progress(what: str, total: float | None = None, unit: str | None = "") -> Iterator[Progress]:
    """A task for as long as the block runs. The arguments are those of `Progress`."""
    task = Progress(what, total, unit)
    try:
        yield task
    finally:
        task.end()


def counted(items: Iterable[T], what: str, total: int | None = None, unit: str = "images") -> Iterator[T]:
    """The items, each of which is counted when the next one is asked for."""
    with progress(what, total, unit) as task:
        for item in items:
            yield item
            task.add()


def say(line: str, end: str = "\n") -> None:
    """Print on standard error. That its reader has gone, as `head` does, is no reason to stop what takes hours."""
    try:
        print(line, end=end, file=sys.stderr, flush=True)
    except BrokenPipeError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stderr.fileno())


def clock(seconds: float) -> str:
    """A time as 0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
