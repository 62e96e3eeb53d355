"""Images to a server, ours or TensorFlow Serving, over REST or gRPC. REST does without TensorFlow."""

import base64
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from resnet_keras.errors import UsageError, needs_extra, reason, require, unknown
from resnet_keras.progress import counted

ENDINGS = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"}
SIGNATURE = "image_bytes"
PORTS = {"rest": 8501, "grpc": 8500}


@dataclass(frozen=True)
class Reply:
    """What a server replied to one image."""

    image: str
    labels: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    version: int | None = None
    seconds: float = 0.0
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        common = {"image": self.image, "seconds": round(self.seconds, 6)}
        if self.error is not None:
            return {**common, "error": self.error}
        return {**common, "labels": list(self.labels), "scores": list(self.scores), "version": self.version}


class Connection(Protocol):
    """One connection to a server."""

    def predict(self, image: bytes) -> tuple[list[str], list[float], int | None]:
        """Labels, scores and version. Raises `UsageError` where the server refuses or cannot be reached."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class ServerClient:
    """A model on a server.

    Args:
        server: HOST or HOST:PORT.
        model: the name that the model is served under.
        version: its number; the newest where there is neither a number nor a label.
        label: a version's label, such as stable or canary.
        protocol: rest or grpc.
        timeout: seconds to wait for a reply.
    """

    server: str = "localhost"
    model: str = "default"
    version: int | None = None
    label: str | None = None
    protocol: str = "rest"
    timeout: float = 60.0

    def send(self, paths: Sequence[str], *, concurrency: int = 1, repeat: int = 1) -> list[Reply]:
        """Send the images of files and folders, each `repeat` times; the replies are in their order.

        Args:
            paths: image files, or folders of them.
            concurrency: requests under way at a time.
            repeat: times each image is sent.

        Raises:
            UsageError: a field or a file that is wrong. What a server refuses is in the replies.
        """
        if self.protocol not in PORTS:
            raise unknown("protocol", self.protocol, PORTS)
        for name, value in (("concurrency", concurrency), ("repeat", repeat)):
            require(value >= 1, name, "at least 1", value)
        require(0 < self.timeout < math.inf, "timeout", "more than 0 seconds", self.timeout)
        if self.version is not None and self.label is not None:
            raise UsageError("give --version or --label, not both")
        images = list(_images(paths))
        mine = threading.local()
        made: list[Connection] = []

        def one(image: tuple[str, bytes]) -> Reply:
            if not hasattr(mine, "connection"):
                mine.connection = self.connect()
                made.append(mine.connection)
            began = time.perf_counter()
            try:
                labels, scores, version = mine.connection.predict(image[1])
            except UsageError as error:
                return Reply(image[0], seconds=time.perf_counter() - began, error=str(error))
            return Reply(image[0], tuple(labels), tuple(scores), version, time.perf_counter() - began)

        try:
            with ThreadPoolExecutor(concurrency) as pool:
                replies = pool.map(one, images * repeat)
                return list(counted(replies, "sending images", len(images) * repeat, "requests"))
        finally:
            for connection in made:
                connection.close()

    def connect(self) -> Connection:
        """A new connection, for one thread."""
        host, _, port = self.server.rpartition(":") if ":" in self.server else (self.server, "", "")
        kind: Callable[[str, ServerClient], Connection] = Rest if self.protocol == "rest" else Grpc
        return kind(f"{host}:{port or PORTS[self.protocol]}", self)


def _images(paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
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
    """A REST connection, kept open."""

    def __init__(self, address: str, client: ServerClient) -> None:
        import requests

        self._session, self._timeout = requests.Session(), client.timeout
        self._session.trust_env = False  # a proxy of the environment is for other hosts than a model server
        which = f"/versions/{client.version}" if client.version is not None else ""
        which = f"/labels/{quote(client.label, safe='')}" if client.label is not None else which
        self._address = address
        self._url = f"http://{address}/v1/models/{quote(client.model, safe='')}{which}:predict"

    def predict(self, image: bytes) -> tuple[list[str], list[float], int | None]:
        import requests

        body = {"signature_name": SIGNATURE, "instances": [{"b64": base64.b64encode(image).decode()}]}
        try:
            response = self._session.post(self._url, json=body, timeout=self._timeout)
            answer = response.json()
        except requests.JSONDecodeError as error:
            raise UsageError(f"{self._address} is no model server: {reason(error)}") from error
        except requests.RequestException as error:
            raise UsageError(f"cannot reach {self._address}: {_cause(error)}") from error
        if response.status_code != 200:
            why = answer.get("error", "no reason given") if isinstance(answer, dict) else answer
            raise UsageError(f"the server refused with status {response.status_code}: {why}{_mend(why)}")
        first = answer["predictions"][0]
        version = response.headers.get("model-version")
        return first["labels"], first["scores"], int(version) if version else None

    def close(self) -> None:
        self._session.close()


def _mend(why: object) -> str:
    """What to do where a server, ours or TensorFlow Serving, has no model of that name."""
    return "; give --model NAME, as it is served" if "Servable not found for request: Latest(" in str(why) else ""


def _cause(error: BaseException) -> str:
    """The innermost of a chain of library errors, in words."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    return str(getattr(error, "reason", None) or error).rsplit(": ", 1)[-1]


class Grpc:
    """A gRPC channel."""

    def __init__(self, address: str, client: ServerClient) -> None:
        with needs_extra("client --protocol grpc", "serve"):
            import grpc
            from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        self._channel, self._timeout, self._address = grpc.insecure_channel(address), client.timeout, address
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._request = predict_pb2.PredictRequest()
        self._request.model_spec.name, self._request.model_spec.signature_name = client.model, SIGNATURE
        if client.version is not None:
            self._request.model_spec.version.value = client.version
        if client.label is not None:
            self._request.model_spec.version_label = client.label
        self._request.output_filter.extend(["labels", "scores"])

    def predict(self, image: bytes) -> tuple[list[str], list[float], int | None]:
        import grpc
        import tensorflow as tf

        self._request.inputs[SIGNATURE].CopyFrom(tf.make_tensor_proto([image]))
        try:
            response = self._stub.Predict(self._request, timeout=self._timeout)
        except grpc.RpcError as error:
            call: Any = error
            why = f"{call.code().name}: {call.details()}"
            raise UsageError(f"{self._address} refused: {why}{_mend(why)}") from error
        labels, scores = (tf.make_ndarray(response.outputs[name])[0] for name in ("labels", "scores"))
        return [label.decode() for label in labels], scores.tolist(), response.model_spec.version.value

    def close(self) -> None:
        self._channel.close()
