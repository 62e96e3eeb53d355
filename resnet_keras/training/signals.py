"""SIGTERM and Ctrl-C during a run."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class StopSignals:
    """Records SIGTERM and Ctrl-C. The step under way is finished first; a second signal interrupts it."""

    def __init__(self) -> None:
        self.requested = self._raises = False
        self.number: int | None = None

    def __call__(self, number: int, frame: Any) -> None:
        self.number = number
        again, self.requested = self.requested, True  # kept: Python drops what is raised in a finaliser or a collection
        if self._raises or again:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def at_once(self, alone: bool) -> Iterator[None]:
        """Within it a signal raises `KeyboardInterrupt` at once, if this host is `alone` and no other waits for it."""
        if self.requested and alone:
            raise KeyboardInterrupt
        self._raises = alone
        try:
            yield
        finally:
            self._raises = False


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Handle SIGTERM and Ctrl-C within it. Only the main thread can; on another one it does nothing."""
    signals = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
