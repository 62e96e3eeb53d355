"""A network cable that loses and delays packets, where the kernel has no netem: two TAP devices and what is between."""

import contextlib
import fcntl
import heapq
import os
import random
import select
import struct
import threading
import time

TUNSETIFF = 0x400454CA
TAP, NO_HEADER = 0x0002, 0x1000
LARGEST = 65_536


class Wire(contextlib.AbstractContextManager["Wire"]):
    """A cable between two devices, which it makes. Whole Ethernet frames are lost: what TCP does then is the kernel's.

    Args:
        one: a name for the device at one end.
        two: and at the other.
    """

    def __init__(self, one: str, two: str) -> None:
        self.loss = 0.0
        """Fraction of the packets that are lost, each way."""
        self.delay = 0.0
        """Seconds that each packet takes, each way."""
        self.carried = self.lost = 0
        self._random = random.Random(0)
        self._ends = [_tap(one), _tap(two)]
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> "Wire":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        for end in self._ends:
            os.close(end)

    def _carry(self) -> None:
        on_the_way: list[tuple[float, int, int, bytes]] = []
        while not self._closing.is_set():
            now = time.monotonic()
            while on_the_way and on_the_way[0][0] <= now:
                _, _, end, frame = heapq.heappop(on_the_way)
                with contextlib.suppress(OSError):  # the device at the other end is down
                    os.write(end, frame)
            wait = min(0.1, on_the_way[0][0] - now) if on_the_way else 0.1
            for end in select.select(self._ends, [], [], max(0.0, wait))[0]:
                with contextlib.suppress(OSError):
                    frame = os.read(end, LARGEST)
                    self.carried += 1
                    if self._random.random() < self.loss:
                        self.lost += 1
                        continue
                    other = self._ends[1 - self._ends.index(end)]
                    heapq.heappush(on_the_way, (time.monotonic() + self.delay, self.carried, other, frame))


def _tap(name: str) -> int:
    number = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(number, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP | NO_HEADER))
    return number
