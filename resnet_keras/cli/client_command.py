"""`resnet-keras client`: its flags, and what it prints of the replies."""

import math
import time
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from resnet_keras.errors import UsageError
from resnet_keras.files import json_text
from resnet_keras.serving.client import Reply, ServerClient

WIDTH = 40


@dataclass(frozen=True)
class Client:
    """Send images to a server, ours or TensorFlow Serving, and time its answers."""

    images: Annotated[tuple[str, ...], Positional, arg(metavar="IMAGE ...")]
    """JPEG, PNG, GIF, BMP or WebP files, or folders of them."""
    server: str = "localhost"
    """HOST or HOST:PORT."""
    model: str = "default"
    """The name the model is served under."""
    version: int | None = None
    """The newest when left out."""
    label: str | None = None
    """A version's label, such as stable or canary."""
    protocol: str = "rest"
    """rest or grpc."""
    concurrency: int = 1
    """Requests under way at a time."""
    repeat: int = 1
    """Times each image is sent."""
    timeout: float = 60.0
    """Seconds to wait for an answer."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """One JSON object on standard output."""

    def run(self) -> None:
        client = ServerClient(self.server, self.model, self.version, self.label, self.protocol, self.timeout)
        started = time.perf_counter()
        replies = client.send(self.images, concurrency=self.concurrency, repeat=self.repeat)
        self._print(replies, time.perf_counter() - started)
        failed = [reply for reply in replies if reply.error is not None]
        if len(replies) == 1 and failed:
            raise UsageError(f"{failed[0].image}: {failed[0].error}")
        if failed:
            raise UsageError(f"{len(failed)} of {len(replies)} requests failed; the first: {failed[0].error}")

    def _print(self, replies: list[Reply], seconds: float) -> None:
        times = sorted(reply.seconds for reply in replies if reply.error is None)
        summary = {"requests": len(replies), "failed": len(replies) - len(times), "seconds": round(seconds, 3)}
        summary["requests_per_second"] = round(len(replies) / seconds, 2)
        latency = {f"p{p}": round(1000 * quantile(times, p / 100), 2) for p in (50, 90, 99)} if times else {}
        once = replies[: len(replies) // self.repeat]
        if self.json:
            answers = [reply.to_dict() for reply in once]
            print(json_text({"answers": answers, **summary, "latency_ms": latency, "histogram": histogram(times)}))
            return
        for reply in once if len(replies) > 1 or times else ():  # the only failure is reported as the command's
            best = ", ".join(f"{label} {score:.4f}" for label, score in zip(reply.labels, reply.scores, strict=True))
            print(f"{reply.image}: {best if reply.error is None else reply.error}")
        if len(times) > 1:
            print(f"\n{summary['requests']} requests in {seconds:.2f} s, {summary['requests_per_second']} requests/s")
            print("latency " + ", ".join(f"{name} {value} ms" for name, value in latency.items()))
            most = max(row["requests"] for row in histogram(times))
            for row in histogram(times):
                bar = "#" * math.ceil(WIDTH * row["requests"] / most)
                print(f"{row['from_ms']:10.2f} to {row['to_ms']:10.2f} ms {row['requests']:7}  {bar}".rstrip())


def quantile(ordered: list[float], share: float) -> float:
    """The value that `share` of the ordered ones do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def histogram(times: list[float]) -> list[dict[str, Any]]:
    """Counts of ordered times, in steps of a quarter of a doubling; empty ends are left out."""
    steps = [math.floor(4 * math.log2(max(time, 1e-6))) for time in times]
    if not steps:
        return []
    return [
        {
            "from_ms": round(1000 * 2 ** (step / 4), 3),
            "to_ms": round(1000 * 2 ** ((step + 1) / 4), 3),
            "requests": steps.count(step),
        }
        for step in range(steps[0], steps[-1] + 1)
    ]
