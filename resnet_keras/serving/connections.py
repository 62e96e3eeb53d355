"""Connections of REST: how long one may be silent, and how many there may be."""

import asyncio
import operator
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

SILENT_SECONDS = 30.0
"""For a connection without a request, and for the headers of one to be whole. uvicorn has a limit behind a request."""
MOST_CONNECTIONS = 512
"""Beyond them, the one that has been without a request for longest is closed. A process has 1,024 files here."""


class BoundedConnection(H11Protocol):
    """uvicorn's, which waits for ever for a client that says nothing, or half of its headers."""

    _silent_since: float | None = None
    """None while it has a request."""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()
        others: list[Any] = [other for other in self.connections if other is not self]
        if len(others) >= MOST_CONNECTIONS:
            silent: list[Any] = [other for other in others if other._silent_since is not None]
            min(silent or [self], key=operator.attrgetter("_silent_since"))._close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._timer is None:
            self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and self.cycle.response_complete:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop_waiting()
        self._silent_since = self.loop.time()
        self._timer = self.loop.call_later(SILENT_SECONDS, self._close)

    def _stop_waiting(self) -> None:
        self._silent_since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._stop_waiting()
        self.connections.discard(self)
        self.transport.close()
