"""Progress bars on a terminal, by rich: one line for each task that runs, below what is printed meanwhile."""

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import Progress as RichProgress
from rich.progress import Task, TaskID
from rich.text import Text

from resnet_keras.errors import UsageError
from resnet_keras.progress import SILENT, clock, shown_by
from resnet_keras.training.cluster import find_cluster

SHOWN_AFTER = 1.0
"""Seconds that a task must take to be shown at all."""
UPDATE_SECONDS = 0.1
WIDEST, NARROWEST = 30, 8
"""Columns of a bar."""
SPINNER, ASCII_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@contextlib.contextmanager
def bars(quiet: bool) -> Iterator[None]:
    """Within it, progress is shown on standard error: where that is a terminal, and on the first of several hosts."""
    if quiet or not sys.stderr.isatty() or os.environ.get("TERM") in ("dumb", "unknown") or not _is_first_host():
        with shown_by(SILENT):
            yield
        return
    # A stream of its own: while libraries are kept from writing, file descriptor 2 leads elsewhere.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding, errors="replace") as stream:
        display = Bars(stream)
        try:
            with shown_by(display):
                yield
        finally:
            display.close()


def _is_first_host() -> bool:
    """Whether this process is the one of several hosts that says how a run goes."""
    try:
        cluster = find_cluster(os.environ)
    except UsageError:  # which the run itself will say
        return True
    return cluster is None or cluster.index == 0


class Bars:
    """Shows tasks on a terminal.

    Args:
        stream: the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        # What is printed to standard output goes to the terminal, too, or it is none of ours.
        redirect = sys.stdout.isatty()
        self.lines = _Lines(
            console=_Console(file=stream), transient=True, redirect_stdout=redirect, refresh_per_second=8
        )

    def begin(self, what: str, total: float | None, unit: str | None) -> "_Bar":
        task = self.lines.add_task(what, total=total, unit=unit, notes=())
        self.lines.start()
        return _Bar(self, task)

    def end(self, task: TaskID) -> None:
        if task in self.lines.task_ids:
            self.lines.remove_task(task)
        if not self.lines.task_ids:
            self.lines.stop()

    def close(self) -> None:
        """Clear what is shown, of tasks that were interrupted too."""
        for task in self.lines.task_ids:
            self.end(task)


class _Bar:
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars, self._task, self._updated = bars, task, 0.0

    def to(self, done: float, notes: Sequence[str], total: float | None) -> None:
        if (now := time.monotonic()) - self._updated < UPDATE_SECONDS and done != total:
            return  # thousands of images a second would be thousands of updates
        self._updated = now
        with contextlib.suppress(KeyError):  # the display has been closed
            self._bars.lines.update(self._task, completed=done, total=total, notes=notes)

    def end(self) -> None:
        self._bars.end(self._task)


class _Console(Console):
    """Leaves the cursor as it is: a process that is killed leaves the terminal with one."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class _Lines(RichProgress):
    """One line for each task, whatever the width of the terminal."""

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks:
            if (task.elapsed or 0.0) >= SHOWN_AFTER:
                yield self._line(task)

    def _line(self, task: Task) -> Text:
        ascii_only = not self.console.encoding.startswith("utf")
        done = min(1.0, task.completed / task.total) if task.total else None
        if done is None:
            frames = ASCII_SPINNER if ascii_only else SPINNER
            what, percent = f"{frames[int(8 * time.monotonic()) % len(frames)]} {task.description}", ""
        else:
            what, percent = task.description, f" {int(100 * done):3d} %"
        parts = [*task.fields["notes"], *_figures(task)]
        width = self.console.width - 1
        while parts and cell_len("  ".join([what + percent, *parts])) > width:
            del parts[0]
        text = "".join([percent, *(f"  {part}" for part in parts)])
        line = Text(what, no_wrap=True, overflow="ellipsis")
        room = min(WIDEST, width - cell_len(what + text) - 1)
        if done is not None and room >= NARROWEST:
            filled = int(room * done)
            line.append(" ").append(("#" if ascii_only else "━") * filled, "green" if done == 1 else "cyan")
            coloured = self.console.color_system and not ascii_only
            line.append(("━" if coloured else " ") * (room - filled), "bright_black")
        return line.append(text)


def _figures(task: Task) -> list[str]:
    """The rate of a task and the time left; of one without an end, how much is done and how long it took."""
    unit, speed = task.fields["unit"], task.speed
    if not task.total:
        return [*([_amount(task.completed, unit)] if unit and task.completed else []), clock(task.elapsed or 0.0)]
    if unit is None or not speed:
        return []
    return [*([_rate(speed, unit)] if unit else []), f"{clock((task.total - task.completed) / speed)} left"]


def _amount(count: float, unit: str) -> str:
    if unit != "B":
        return f"{count:,.0f} {unit}"
    size, name = next((pair for pair in SIZES if count >= pair[0]), (1.0, "bytes"))
    return f"{count / size:.3g} {name}"


def _rate(speed: float, unit: str) -> str:
    if unit == "B":
        return f"{_amount(speed, unit)}/s"
    return f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.2g} {unit}/s"
