"""`resnet-keras client`: images to a server, ours or TensorFlow Serving, and how long the answers took."""

import base64
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol
from urllib.parse import quote

from tyro.conf import Positional, arg

from resnet_keras.errors import UsageError, reason, require, unknown
from resnet_keras.files import json_text

ENDINGS = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"}
SIGNATURE = "image_bytes"
PORTS = {"rest": 8501, "grpc": 8500}
WIDTH = 40


@dataclass(frozen=True)
class Answer:
    """What a server said of one image."""

    image: str
    labels: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    version: int | None = None
    seconds: float = 0.0
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        known = {"image": self.image, "seconds": round(self.seconds, 6)}
        if self.error is not None:
            return {**known, "error": self.error}
        return {**known, "labels": list(self.labels), "scores": list(self.scores), "version": self.version}


class Connection(Protocol):
    """One way to a server."""

    def ask(self, image: bytes) -> tuple[list[str], list[float], int | None]: ...

    def close(self) -> None: ...


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
    json: bool = False
    """One JSON object on standard output."""

    def run(self) -> None:
        started = time.perf_counter()
        answers = self.ask()
        seconds = time.perf_counter() - started
        self._tell(answers, seconds)
        failed = [answer for answer in answers if answer.error is not None]
        if failed:
            raise UsageError(f"{len(failed)} of {len(answers)} requests failed; the first: {failed[0].error}")

    def ask(self) -> list[Answer]:
        """Send every image, as often as `repeat` says; the answers are in their order.

        Raises:
            UsageError: a field or a file that is wrong. What a server refuses is in the answers.
        """
        if self.protocol not in PORTS:
            raise unknown("protocol", self.protocol, PORTS)
        for name in ("concurrency", "repeat"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(0 < self.timeout < math.inf, "timeout", "more than 0 seconds", self.timeout)
        if self.version is not None and self.label is not None:
            raise UsageError("give --version or --label, not both")
        images = list(_images(self.images))
        host, _, port = self.server.rpartition(":") if ":" in self.server else (self.server, "", "")
        address = f"{host}:{port or PORTS[self.protocol]}"
        kind: Callable[[str, Client], Connection] = Rest if self.protocol == "rest" else Grpc
        mine = threading.local()
        made: list[Connection] = []

        def ask(image: tuple[str, bytes]) -> Answer:
            if not hasattr(mine, "connection"):
                mine.connection = kind(address, self)
                made.append(mine.connection)
            began = time.perf_counter()
            try:
                labels, scores, version = mine.connection.ask(image[1])
            except UsageError as error:
                return Answer(image[0], seconds=time.perf_counter() - began, error=str(error))
            return Answer(image[0], tuple(labels), tuple(scores), version, time.perf_counter() - began)

        try:
            with ThreadPoolExecutor(self.concurrency) as pool:
                return list(pool.map(ask, images * self.repeat))
        finally:
            for connection in made:
                connection.close()

    def _tell(self, answers: list[Answer], seconds: float) -> None:
        times = sorted(answer.seconds for answer in answers if answer.error is None)
        summary = {"requests": len(answers), "failed": len(answers) - len(times), "seconds": round(seconds, 3)}
        summary["requests_per_second"] = round(len(answers) / seconds, 2)
        latency = {f"p{p}": round(1000 * quantile(times, p / 100), 2) for p in (50, 90, 99)} if times else {}
        if self.json:
            told = [answer.to_dict() for answer in answers[: len(answers) // self.repeat]]
            print(json_text({"answers": told, **summary, "latency_ms": latency, "histogram": histogram(times)}))
            return
        for answer in answers[: len(answers) // self.repeat]:
            best = ", ".join(f"{label} {score:.4f}" for label, score in zip(answer.labels, answer.scores, strict=True))
            print(f"{answer.image}: {best if answer.error is None else answer.error}")
        if len(times) > 1:
            print(f"\n{summary['requests']} requests in {seconds:.2f} s, {summary['requests_per_second']} a second")
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


def _images(paths: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Each image's path and bytes."""
    if not paths:
        raise UsageError("give at least one image file or folder")
    for given in paths:
        path = Path(given).expanduser()
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS) if path.is_dir() else [path]
        if not files:
            raise UsageError(f"there is no image in {path}; files end in {', '.join(sorted(ENDINGS))}")
        for file in files:
            try:
                yield str(file), file.read_bytes()
            except OSError as error:
                raise UsageError(f"cannot read {file}: {reason(error)}") from error


class Rest:
    """A connection that is kept open."""

    def __init__(self, address: str, asked: Client) -> None:
        import requests

        self._session, self._timeout = requests.Session(), asked.timeout
        self._session.trust_env = False  # a proxy of the environment is for other hosts than a model server
        which = f"/versions/{asked.version}" if asked.version is not None else ""
        which = f"/labels/{quote(asked.label, safe='')}" if asked.label is not None else which
        self._address = address
        self._url = f"http://{address}/v1/models/{quote(asked.model, safe='')}{which}:predict"

    def ask(self, image: bytes) -> tuple[list[str], list[float], int | None]:
        import requests

        body = {"signature_name": SIGNATURE, "instances": [{"b64": base64.b64encode(image).decode()}]}
        try:
            response = self._session.post(self._url, json=body, timeout=self._timeout)
            answer = response.json()
        except requests.JSONDecodeError as error:
            raise UsageError(f"{self._address} does not answer as a model server does: {reason(error)}") from error
        except requests.RequestException as error:
            raise UsageError(f"cannot reach {self._address}: {_cause(error)}") from error
        if response.status_code != 200:
            said = answer.get("error", "no reason given") if isinstance(answer, dict) else answer
            raise UsageError(f"the server refused with status {response.status_code}: {said}")
        first = answer["predictions"][0]
        version = response.headers.get("model-version")
        return first["labels"], first["scores"], int(version) if version else None

    def close(self) -> None:
        self._session.close()


def _cause(error: BaseException) -> str:
    """What lies under a chain of library errors."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    return str(getattr(error, "reason", None) or error).rsplit(": ", 1)[-1]


class Grpc:
    """A channel of its own."""

    def __init__(self, address: str, asked: Client) -> None:
        import grpc
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        self._channel, self._timeout, self._address = grpc.insecure_channel(address), asked.timeout, address
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._request = predict_pb2.PredictRequest()
        self._request.model_spec.name, self._request.model_spec.signature_name = asked.model, SIGNATURE
        if asked.version is not None:
            self._request.model_spec.version.value = asked.version
        if asked.label is not None:
            self._request.model_spec.version_label = asked.label
        self._request.output_filter.extend(["labels", "scores"])

    def ask(self, image: bytes) -> tuple[list[str], list[float], int | None]:
        import grpc
        import tensorflow as tf

        self._request.inputs[SIGNATURE].CopyFrom(tf.make_tensor_proto([image]))
        try:
            response = self._stub.Predict(self._request, timeout=self._timeout)
        except grpc.RpcError as error:
            said: Any = error
            raise UsageError(f"{self._address} refused: {said.code().name}: {said.details()}") from error
        labels, scores = (tf.make_ndarray(response.outputs[name])[0] for name in ("labels", "scores"))
        return [label.decode() for label in labels], scores.tolist(), response.model_spec.version.value

    def close(self) -> None:
        self._channel.close()
