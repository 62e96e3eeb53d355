"""The server: its models, gRPC, REST, and how it stops."""

import logging
import signal
import socket
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import grpc
import uvicorn

from resnet_keras.errors import UsageError, reason
from resnet_keras.serving.config_files import one_model, read_batching, read_models, read_monitoring, read_ssl
from resnet_keras.serving.connections import BoundedConnection
from resnet_keras.serving.core import Core
from resnet_keras.serving.options import ServerOptions
from resnet_keras.serving.rest import RestApi
from resnet_keras.serving.rpc import RpcServer
from resnet_keras.serving.status import ServingError

log = logging.getLogger(__name__)
DRAIN_SECONDS = 60
LONGEST_HEADERS = 64 << 10


class Server:
    """A server, which listens from `start` to `stop`.

    Args:
        options: the flags of `resnet-keras serve`.

    Raises:
        UsageError: flags or files that are wrong, a port that is taken, a model none of whose versions can be loaded.
    """

    def __init__(self, options: ServerOptions) -> None:
        options.check()
        path = options.config_file()
        config = read_models(path) if path else one_model(options.model_name, str(options.model_base_path))
        batching = read_batching(options.batching_parameters_file) if options.enable_batching else None
        metrics_path = read_monitoring(options.monitoring_config_file)
        credentials = _credentials(options.ssl_config_file)
        self._socket = _listen(options.host, options.rest_api_port) if options.rest_api_port else None
        self._rest: uvicorn.Server | None = None
        self._rest_thread: threading.Thread | None = None
        self._rpc: RpcServer | None = None
        self._rereading = _Rereading(self, path, options.model_config_file_poll_wait_seconds)
        self.core: Core | None = None
        try:
            self.core = _core(options, config, batching, path)
            if failures := self.core.manager.failures():
                raise UsageError(f"cannot serve: {'; '.join(failures)}")
            if options.port:
                self._rpc = RpcServer(self.core, f"{options.host}:{options.port}", credentials)
            if self._socket:
                self._rest = uvicorn.Server(
                    uvicorn.Config(
                        RestApi(self.core, metrics_path).application,
                        http=BoundedConnection,
                        ws="none",
                        lifespan="off",
                        log_config=None,
                        access_log=False,
                        proxy_headers=False,
                        server_header=False,
                        h11_max_incomplete_event_size=LONGEST_HEADERS,
                        timeout_graceful_shutdown=DRAIN_SECONDS,
                    )
                )
        except BaseException:
            self.stop()
            raise

    def start(self) -> None:
        """Listen, and look for new versions."""
        assert self.core is not None
        if self._rpc:
            self._rpc.start()
        if self._rest:
            assert self._socket is not None
            self._socket.listen()
            listening = [self._socket]
            self._rest_thread = threading.Thread(target=self._rest.run, args=(listening,), name="rest", daemon=True)
            self._rest_thread.start()
        self.core.manager.start()
        self._rereading.start()

    def stop(self) -> None:
        """Refuse new requests, answer those that run, unload the models."""
        self._rereading.stop()
        if self._rest and self._rest_thread:
            self._rest.should_exit = True
        if self._rpc:
            self._rpc.stop(DRAIN_SECONDS)
        if self._rest_thread:
            self._rest_thread.join()
        if self._socket:
            self._socket.close()
        if self.core:
            self.core.close()


class _Rereading:
    """Reads the model configuration again whenever it changes; a wrong one changes nothing."""

    def __init__(self, server: Server, path: Path | None, seconds: int) -> None:
        self._server, self._path, self._seconds = server, path, seconds
        self._last = path.read_bytes() if path else b""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="configuration", daemon=True)

    def start(self) -> None:
        if self._path and self._seconds:
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _poll(self) -> None:
        assert self._path is not None
        while not self._stop.wait(self._seconds):
            try:
                now = self._path.read_bytes()
                if now != self._last and self._server.core:
                    self._last = now
                    self._server.core.manager.configure(read_models(self._path))
                    log.info("%s has changed and is in force", self._path)
            except (OSError, UsageError, ServingError) as error:
                log.warning("%s cannot be followed: %s", self._path, error)


def _core(options: ServerOptions, config: Any, batching: Any, path: object) -> Core:
    try:
        return Core(options, config, batching)
    except ServingError as error:
        hint = ""
        if "assign label" in error.message:
            hint = "; --allow_version_labels_for_unavailable_models allows it"
        raise UsageError(f"{path or options.model_base_path}: {error.message}{hint}") from error


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"cannot listen at {host}: {reason(error)}; give another --host") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise UsageError(f"cannot listen at {host}:{port}: {reason(error)}; give another --rest_api_port") from error
    return listening


def _credentials(path: str | None) -> grpc.ServerCredentials | None:
    if path is None:
        return None
    keys: Any = read_ssl(path)
    try:
        return grpc.ssl_server_credentials(
            [(keys.server_key.encode(), keys.server_cert.encode())],
            keys.custom_ca.encode() or None,
            keys.client_verify,
        )
    except ValueError as error:
        raise UsageError(f"cannot use the TLS configuration {path}: {error}") from error


def serve(options: ServerOptions) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that run are answered first.

    Raises:
        KeyboardInterrupt: Ctrl-C has ended the server.
    """
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    for noisy in ("tensorflow", "absl", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    received: list[int] = []
    ended = threading.Event()

    def end(number: int, _: FrameType | None) -> None:
        if received:
            raise SystemExit(1)  # the second signal: end at once
        received.append(number)
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server = Server(options)
        try:
            if not ended.is_set():
                server.start()
                _log_addresses(options)
            ended.wait()
            log.info("answering the requests that run, then stopping")
        finally:
            server.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGINT in received:
        raise KeyboardInterrupt


def _log_addresses(options: ServerOptions) -> None:
    if options.rest_api_port:
        log.info("REST and the page at http://%s:%d", options.host, options.rest_api_port)
    if options.port:
        log.info("gRPC at %s:%d", options.host, options.port)
