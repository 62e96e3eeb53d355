"""TensorFlow Serving's REST API (http_rest_api_handler.cc) as an ASGI application, the metrics, and the page."""

import asyncio
import contextlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import unquote

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from resnet_keras.serving import examples, rest_json
from resnet_keras.serving.core import Core
from resnet_keras.serving.json_reader import parse
from resnet_keras.serving.loaded import DEFAULT_SIGNATURE, LoadedVersion
from resnet_keras.serving.origins import OwnPages
from resnet_keras.serving.page import page
from resnet_keras.serving.room import Places
from resnet_keras.serving.status import Code, ServingError, invalid
from resnet_keras.serving.versions import ModelSpec

WHICH = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
PREDICTION = re.compile(rf"/v1/models/(?P<model>[^/:]+){WHICH}:(?P<method>classify|regress|predict)", re.I | re.A)
STATUS = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{WHICH}(?:/(?P<metadata>metadata))?", re.I | re.A)
LARGE = 1 << 20
"""Bodies of this many bytes or more are parsed one at a time: Python's lists take twenty times the memory of JSON."""
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
VERSION_HEADER = "model-version"


class RestApi:
    """The application.

    Args:
        core: the models.
        metrics_path: the path of the metrics; None for no metrics.
    """

    def __init__(self, core: Core, metrics_path: str | None) -> None:
        self._core = core
        options = core.options
        self._pool = ThreadPoolExecutor(options.workers(options.rest_api_num_threads), "rest")
        self._places = Places(options.max_waiting_requests)
        """gRPC's library has the same limit of its own."""
        self._one_large = threading.Lock()
        routes = [Route("/", self._page, methods=["GET"])]
        if metrics_path:
            routes.append(Route(metrics_path, self._metrics, methods=["GET"]))
        routes.append(Route("/{path:path}", self._api, methods=METHODS))
        self.application = OwnPages(
            Starlette(routes=routes),
            options.host,
            ["*"] if options.rest_api_enable_cors_support else options.allowed_origins,
        )

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
        end = time.perf_counter() + self._core.options.rest_api_timeout_in_ms / 1000
        if {"transfer-encoding", "content-length"} <= set(request.headers):  # whose end two servers may see differently
            refusal = _refusal(invalid("a request with both Transfer-Encoding and Content-Length"))
            refusal.headers["Connection"] = "close"
            return refusal
        try:
            with self._core.counted("REST") as counted:
                spec, method = parse_path(request.method, path)
                counted.model, counted.method = spec.name, method
                response = await self._answer(request, spec, method, end)
        except ServingError as error:
            response = _refusal(error)
        return self._with_cors(response)

    async def _answer(self, request: Request, spec: ModelSpec, method: str, end: float) -> Response:
        if method == "status":
            return _json(self._core.status(spec))
        if method == "metadata":
            response, signatures = self._core.metadata(spec)
            model_spec, signature_def = _text(response.model_spec), _text(signatures)
            return _json_text(f'{{"model_spec": {model_spec}, "metadata": {{"signature_def": {signature_def}}}}}')
        body = await self._body(request, end)
        # A place is taken when a request is whole: a client that sends a byte and waits has none.
        try:
            self._places.take()
        except ServingError:
            self._core.room.give(len(body))
            raise

        def ended(future: asyncio.Future[Response]) -> None:
            self._core.room.give(len(body))
            self._places.give()
            if not future.cancelled():
                future.exception()  # is looked at, though no one may wait for it any more

        answer = asyncio.get_running_loop().run_in_executor(self._pool, partial(self._run, spec, method, body, end))
        answer.add_done_callback(ended)
        done, _ = await asyncio.wait([answer], timeout=end - time.perf_counter())
        if not done:
            raise too_late()
        return answer.result()

    def _run(self, spec: ModelSpec, method: str, body: bytes, end: float) -> Response:
        if time.perf_counter() > end:  # the client waits no longer
            raise too_late()
        one = self._one_large if len(body) > LARGE else contextlib.nullcontext()
        with one:
            request = parse(body)
        signature = rest_json.signature_name(request, DEFAULT_SIGNATURE)
        if method != "predict":
            kind: examples.Kind = "classification" if method == "classify" else "regression"
            (inferred,) = self._core.infer(spec, [(signature, kind)], examples.input_from_json(request))
            return _versioned(rest_json.write_results(examples.results_of(inferred.result)), inferred.version)

        def read_inputs(version: LoadedVersion) -> dict[str, np.ndarray]:
            if signature not in version.signatures:
                raise invalid(f'Serving signature name: "{signature}" not found in signature def')
            with one:
                inputs = rest_json.read_inputs(request, version.inputs_of(signature))
            request.clear()
            nonlocal ready
            ready = time.perf_counter()
            return inputs

        rows, ready = rest_json.in_rows(request), 0.0
        predicted = self._core.predict(spec, signature, read_inputs, rest_json.output_filter(request))
        seconds = time.perf_counter() - ready
        response = _versioned(rest_json.write_outputs(predicted.outputs, rows), predicted.version)
        response.headers["Server-Timing"] = f"model;dur={1000 * seconds:.1f}"  # W3C's, in milliseconds
        return response

    async def _body(self, request: Request, end: float) -> bytes:
        """The body of a request, for which it has room; who gets it gives the room back."""
        most, taken = self._core.options.max_request_bytes, 0
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(end - time.perf_counter()):
                async for part in request.stream():
                    if taken + len(part) > most:
                        raise invalid(f"the body is larger than max_request_bytes, {most:,} bytes")
                    self._core.room.take(len(part))
                    taken += len(part)
                    parts.append(part)
        except BaseException as error:
            self._core.room.give(taken)
            if isinstance(error, TimeoutError):
                raise too_late() from None
            if isinstance(error, ClientDisconnect):
                raise ServingError(Code.CANCELLED, "the client has gone") from None
            raise
        return b"".join(parts)

    # Not Starlette's CORSMiddleware: TensorFlow Serving answers every OPTIONS request, refuses those without an http
    # origin in JSON, and puts all three headers on every answer, whether a request has an origin or not.
    def _with_cors(self, response: Response) -> Response:
        if self._core.options.rest_api_enable_cors_support:
            response.headers["Access-Control-Allow-Origin"] = "*"
            response.headers["Access-Control-Allow-Methods"] = "POST, GET"
            response.headers["Access-Control-Allow-Headers"] = "Content-Type"
        return response


def too_late() -> ServingError:
    return ServingError(Code.DEADLINE_EXCEEDED, "the request took longer than rest_api_timeout_in_ms")


def parse_path(method: str, path: str) -> tuple[ModelSpec, str]:
    """The model and the call (predict, status, metadata, ...) that a path names.

    Raises:
        ServingError: INVALID_ARGUMENT for a path that the API does not have.
    """
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
    return ModelSpec(unquote(parts["model"]), version, label), kind


def _preflight(request: Request) -> Response:
    if re.match("https?://", request.headers.get("origin", "")):
        return Response(media_type="application/json")
    return _refusal(ServingError(Code.FAILED_PRECONDITION, "Origin header is missing in CORS preflight"))


def _versioned(body: bytes, version: int) -> Response:
    response = _json_text(body)
    response.headers[VERSION_HEADER] = str(version)
    return response


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
