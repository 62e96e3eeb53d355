"""TensorFlow Serving's REST API (http_rest_api_handler.cc) as an ASGI application, the metrics, and the page."""

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote

from google.protobuf import json_format
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from resnet_keras.serving import rest_json
from resnet_keras.serving.core import CALLS_WITHOUT_EXAMPLES, Core
from resnet_keras.serving.loaded import DEFAULT_SIGNATURE
from resnet_keras.serving.page import page
from resnet_keras.serving.status import Code, ServingError, invalid

log = logging.getLogger(__name__)
WHICH = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
PREDICTION = re.compile(rf"/v1/models/(?P<model>[^/:]+){WHICH}:(?P<method>classify|regress|predict)", re.I | re.A)
STATUS = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{WHICH}(?:/(?P<metadata>metadata))?", re.I | re.A)
LARGE = 1 << 20
"""Bytes of a body from which on bodies are taken one at a time: JSON grows twentyfold on its way to Python's lists."""
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
VERSION_HEADER = "model-version"


@dataclass(frozen=True)
class Asked:
    """What a request's path says."""

    model: str = ""
    version: int | None = None
    label: str | None = None
    method: str = ""


class RestApi:
    """The application.

    Args:
        core: the models.
        metrics_path: where Prometheus reads; None for nowhere.
    """

    def __init__(self, core: Core, metrics_path: str | None) -> None:
        self._core = core
        options = core.options
        self._pool = ThreadPoolExecutor(options.workers(options.rest_api_num_threads), "rest")
        self._one_large = threading.Lock()
        self._room = options.max_request_bytes * 4
        """Bytes of bodies that may be in memory at a time."""
        routes = [Route("/", self._page, methods=["GET"])]
        if metrics_path:
            routes.append(Route(metrics_path, self._metrics, methods=["GET"]))
        routes.append(Route("/{path:path}", self._api, methods=METHODS))
        self.application = Starlette(routes=routes)

    async def _page(self, _: Request) -> Response:
        return page(self._core.manager.names())

    async def _metrics(self, _: Request) -> Response:
        return Response(self._core.metrics.page(), media_type="text/plain")

    async def _api(self, request: Request) -> Response:
        path = request.scope["raw_path"].decode("latin-1").partition("?")[0]
        if not path.lower().startswith("/v1/"):
            return Response(status_code=404)
        if request.method == "OPTIONS":
            return self._with_cors(_preflight(request))
        started, asked, error = time.perf_counter(), Asked(), None
        answer = Response(status_code=500)
        try:
            asked = parse_path(request.method, path)
            answer = await self._answer(request, asked, started + self._core.options.rest_api_timeout_in_ms / 1000)
        except ServingError as refused:
            error = refused
        except ClientDisconnect:
            error = ServingError(Code.CANCELLED, "the client has gone")
        except Exception as fault:
            log.exception("a request failed by a fault of the server's")
            error = ServingError(Code.INTERNAL, f"{type(fault).__name__}: {fault}")
        self._core.count(asked.model, error, asked.method, "REST", started)
        return self._with_cors(_refusal(error) if error else answer)

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[None]:
        self._core.admit()
        try:
            yield
        finally:
            self._core.done()

    async def _answer(self, request: Request, asked: Asked, end: float) -> Response:
        if asked.method == "status":
            return _json(self._core.status(asked.model, asked.version, asked.label))
        if asked.method == "metadata":
            response, signatures = self._core.metadata(asked.model, asked.version, asked.label)
            spec, signature_def = _text(response.model_spec), _text(signatures)
            return _json_text(f'{{"model_spec": {spec}, "metadata": {{"signature_def": {signature_def}}}}}')
        if asked.method != "predict":
            raise ServingError(Code.UNIMPLEMENTED, CALLS_WITHOUT_EXAMPLES)
        with self._admitted():
            async with self._body(request, end) as body:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._pool, partial(self._predict, asked, body, end))

    def _predict(self, asked: Asked, body: bytes, end: float) -> Response:
        if time.perf_counter() > end:  # whoever asked has stopped waiting
            raise too_late()
        one = self._one_large if len(body) > LARGE else contextlib.nullcontext()
        with one:
            request = rest_json.parse(body)
        signature, wanted = rest_json.signature_name(request, DEFAULT_SIGNATURE), rest_json.output_filter(request)
        with self._core.manager.version(asked.model, asked.version, asked.label) as version:
            if signature not in version.signatures:
                raise invalid(f'Serving signature name: "{signature}" not found in signature def')
            with one:
                inputs, rows = rest_json.read_inputs(request, version.inputs_of(signature))
            request.clear()
            answer = self._core.predict(version, signature, inputs, wanted)
        response = _json_text(rest_json.write_outputs(answer, rows))
        response.headers[VERSION_HEADER] = str(version.version)
        return response

    @contextlib.asynccontextmanager
    async def _body(self, request: Request, end: float) -> AsyncIterator[bytes]:
        """The body of a request, in bounded memory."""
        most, taken = self._core.options.max_request_bytes, 0
        parts: list[bytes] = []
        try:
            try:
                async with asyncio.timeout(end - time.perf_counter()):
                    async for part in request.stream():
                        taken += len(part)
                        self._room -= len(part)
                        if taken > most:
                            raise invalid(f"the body is larger than max_request_bytes, {most:,} bytes")
                        if self._room < 0:
                            raise ServingError(Code.UNAVAILABLE, "too many large requests at a time; try again later")
                        parts.append(part)
            except TimeoutError:
                raise too_late() from None
            yield b"".join(parts)
        finally:
            self._room += taken

    def _with_cors(self, response: Response) -> Response:
        if self._core.options.rest_api_enable_cors_support:
            response.headers["Access-Control-Allow-Origin"] = "*"
            response.headers["Access-Control-Allow-Methods"] = "POST, GET"
            response.headers["Access-Control-Allow-Headers"] = "Content-Type"
        return response


def too_late() -> ServingError:
    return ServingError(Code.DEADLINE_EXCEEDED, "the request took longer than rest_api_timeout_in_ms")


def parse_path(method: str, path: str) -> Asked:
    """What is asked for. Raises `ServingError` (INVALID_ARGUMENT) for a path that is none of the API's."""
    found = {"POST": PREDICTION, "GET": STATUS}.get(method, re.compile("(?!)")).fullmatch(path)
    if found is None:
        raise invalid(f"Malformed request: {method} {path[:1000]}")
    parts = found.groupdict()
    if not parts["model"]:
        raise invalid("Missing model name in request.")
    version = None
    if parts["version"]:
        if len(parts["version"]) > 19 or int(parts["version"]) >= 2**63:
            raise invalid(f"Failed to convert version: {parts['version'][:1000]} to numeric.")
        version = int(parts["version"])
    label = unquote(parts["label"]) if parts["label"] else None
    kind = "predict" if method == "POST" else "status"
    kind = (parts.get("method") or parts.get("metadata") or kind).lower()
    return Asked(unquote(parts["model"]), version, label, kind)


def _preflight(request: Request) -> Response:
    if re.match("https?://", request.headers.get("origin", "")):
        return Response(media_type="application/json")
    return _refusal(ServingError(Code.FAILED_PRECONDITION, "Origin header is missing in CORS preflight"))


def _refusal(error: ServingError) -> Response:
    return _json_text(rest_json.write_error(error.message), error.http)


def _text(message: Message) -> str:
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _json(message: Message) -> Response:
    return _json_text(_text(message))


def _json_text(body: str | bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")
