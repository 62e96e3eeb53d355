"""The memory that requests may take together, and how many of them there may be."""

import threading

from resnet_keras.serving.status import Code, ServingError


class Room:
    """Bytes of the requests that are under way, by REST and gRPC together.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        self._free, self._lock = most, threading.Lock()

    def take(self, count: int) -> None:
        """Raises `ServingError` (UNAVAILABLE) where there is no room for so many bytes more."""
        with self._lock:
            if count > self._free:
                raise ServingError(Code.UNAVAILABLE, "too many large requests at a time; try again later")
            self._free -= count

    def give(self, count: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._free += count


class Places:
    """How many requests may run or wait."""

    def __init__(self, most: int) -> None:
        self._most, self._places = most, threading.BoundedSemaphore(most)

    def take(self) -> None:
        """Raises `ServingError` (UNAVAILABLE) where all are taken."""
        if not self._places.acquire(blocking=False):
            raise ServingError(Code.UNAVAILABLE, f"{self._most} requests are under way or wait; try again later")

    def give(self) -> None:
        self._places.release()
