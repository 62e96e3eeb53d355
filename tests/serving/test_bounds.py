"""What one client can do to the others: nothing. Streams, silence, half a request, too many bytes, a foreign page."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serving_models import Address, half_plus, half_plus_two_of_serving, running
from tensorflow_serving.apis import model_management_pb2

from resnet_keras.serving import connections, interceptors
from resnet_keras.serving.loaded import LoadedVersion
from resnet_keras.serving.options import ServerOptions
from resnet_keras.serving.origins import OwnPages

X = {"x": [3.0]}
PATH = "/v1/models/a:predict"
ONE = {"instances": [3.0]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return half_plus(2, tmp_path_factory.mktemp("models") / "a" / "1").parent


@pytest.fixture
def address(base: Path, request: pytest.FixtureRequest) -> Iterator[Address]:
    with running(model_name="a", model_base_path=str(base), **getattr(request, "param", {})) as address:
        yield address


def connected(address: Address, said: bytes) -> socket.socket:
    host, port = address.rest.split(":")
    client = socket.create_connection((host, int(port)), 30)
    client.sendall(said)
    return client


def said_to(client: socket.socket, most: int = 4096) -> bytes:
    """Up to the answer 3.5, or to the end."""
    said = b""
    while b"3.5" not in said and (part := client.recv(most)):
        said += part
    return said


def head(length: int = 22, more: str = "") -> bytes:
    return f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{more}\r\n".encode()


def test_streams_hold_up_no_request_and_no_stop(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight silenced gRPC, and one made SIGTERM take a minute."""
    monkeypatch.setattr(interceptors, "STREAM_SECONDS", 2.0)
    with running(model_name="a", model_base_path=str(base), grpc_max_threads=2) as address:
        health: Any = health_pb2_grpc.HealthStub(address.channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(13)]
        assert [next(watch).status for watch in watches] == [1] * 13
        ended = threading.Event()

        def questions() -> Iterator[reflection_pb2.ServerReflectionRequest]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            ended.wait(60)

        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(address.channel)
        asked = [reflection.ServerReflectionInfo(questions()) for _ in range(3)]
        assert "tensorflow.serving.PredictionService" in str(next(asked[0]))
        assert address.predict("a", X).outputs["y"].float_val[:] == [3.5]
        one_more = health.Watch(health_pb2.HealthCheckRequest())
        with pytest.raises(grpc.RpcError, match="16 streams are open"):
            next(one_more)
        for one in asked[1:]:
            assert "PredictionService" in str(next(one))
        with pytest.raises(grpc.RpcError):  # when its time is over
            next(asked[0])
        ended.set()
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 30  # where it was DRAIN_SECONDS, 60


@pytest.mark.parametrize("address", [{"grpc_max_threads": 2}], indirect=True)
def test_messages_that_do_not_come_hold_up_no_request(address: Address) -> None:
    """A thread waits for each, and there were eight."""
    ended = threading.Event()

    def never() -> Iterator[bytes]:
        ended.wait(60)
        yield b""

    call = address.channel.stream_unary("/tensorflow.serving.PredictionService/Predict")
    waiting = [call.future(never(), timeout=60) for _ in range(6)]
    assert address.predict("a", X).outputs["y"].float_val[:] == [3.5]
    assert not any(one.done() for one in waiting)
    for one in waiting:
        one.cancel()
    ended.set()


@pytest.mark.parametrize("address", [{"max_waiting_requests": 2, "rest_api_timeout_in_ms": 20_000}], indirect=True)
def test_half_a_body_takes_no_place(address: Address) -> None:
    slow = [connected(address, head() + b"{") for _ in range(6)]
    assert address.post(PATH, ONE).json() == {"predictions": [3.5]}
    for client in slow:
        client.sendall(b'"instances": [3.0]}  ')
        assert b"3.5" in said_to(client)
        client.close()


def test_silent_connections_are_closed(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the start, in the middle of the headers, and behind an answer; not while a request runs."""
    monkeypatch.setattr(connections, "SILENT_SECONDS", 0.5)
    entered, going_on = threading.Event(), threading.Event()
    run = LoadedVersion.run

    def slow(*args: Any) -> Any:
        entered.set()
        going_on.wait(30)
        return run(*args)

    monkeypatch.setattr(LoadedVersion, "run", slow)
    working = connected(address, head() + b'{"instances": [3.0]}  ')
    assert entered.wait(30)
    silent = [connected(address, said) for said in (b"", b"POST", head()[:-2])]
    for client in silent:
        assert client.recv(100) == b""
        client.close()
    going_on.set()
    assert b"3.5" in said_to(working)
    working.sendall(b"POST /v1")
    assert working.recv(100) in (b"", b"]}")
    working.close()


def test_too_many_connections_close_the_one_that_is_silent_longest(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 5)
    silent = [connected(address, b"") for _ in range(12)]
    assert address.post(PATH, ONE).status_code == 200
    for client in silent[:6]:
        assert client.recv(100) == b""
    for client in silent:
        client.close()


@pytest.mark.parametrize("address", [{"rest_api_timeout_in_ms": 300}], indirect=True)
def test_a_deadline_ends_the_wait(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    going_on = threading.Event()
    monkeypatch.setattr(LoadedVersion, "run", lambda *_: going_on.wait(60))
    answer = address.post(PATH, ONE)
    assert not going_on.is_set()
    assert (answer.status_code, "took longer than rest_api_timeout_in_ms" in answer.text) == (504, True)
    going_on.set()


def test_bytes_under_way_are_bounded_for_both(address: Address) -> None:
    assert address.server.core is not None
    room = address.server.core.room
    room.take(room._free)
    assert address.post(PATH, ONE).status_code == 503
    with pytest.raises(grpc.RpcError, match="too many large requests at a time"):
        address.predict("a", X)
    room.give(4 * ServerOptions().max_request_bytes)
    assert address.post(PATH, ONE).status_code == 200
    assert address.predict("a", X).outputs["y"].float_val[:] == [3.5]
    assert room._free == 4 * ServerOptions().max_request_bytes


def test_strings_of_a_request_are_bounded(tmp_path: Path) -> None:
    """A megabyte of images of no bytes kept a ResNet-8 busy for eight seconds."""
    half_plus_two_of_serving(tmp_path / "m" / "1")
    half_plus(2, tmp_path / "b" / "1")
    with running(model_name="b", model_base_path=str(tmp_path / "b"), max_request_strings=10) as address:
        for count, status in ((10, 200), (11, 400)):
            body = {"signature_name": "bytes", "instances": ["a"] * count}
            assert address.post("/v1/models/b:predict", body).status_code == status
        with pytest.raises(grpc.RpcError, match="11 strings are more than max_request_strings, 10; send them in parts"):
            address.predict("b", {"text": [b"a"] * 11}, signature="bytes")
    with running(model_name="m", model_base_path=str(tmp_path / "m"), max_request_strings=10) as address:
        for count, status in ((10, 200), (11, 400)):
            body = {"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}] * count}
            assert address.post("/v1/models/m:regress", body).status_code == status


def test_two_lengths_of_a_body_end_the_connection(address: Address) -> None:
    client = connected(address, head(more="Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n")
    said = client.makefile("rb").read()  # up to the end
    assert said.startswith(b"HTTP/1.1 400")
    client.close()


@pytest.mark.parametrize(
    ("host", "allowed", "headers", "admitted"),
    [
        ("127.0.0.1", (), {}, True),
        ("127.0.0.1", (), {"host": "127.0.0.1:8501"}, True),
        ("127.0.0.1", (), {"host": "localhost:8501", "origin": "http://localhost:8501"}, True),
        ("127.0.0.1", (), {"host": "[::1]:8501"}, True),
        ("::1", (), {"host": "localhost"}, True),
        ("127.0.0.1", (), {"host": "attacker.example:8501"}, False),  # DNS rebinding
        ("127.0.0.1", (), {"host": "attacker.example", "origin": "http://attacker.example"}, False),
        ("127.0.0.1", (), {"host": "127.0.0.1.attacker.example"}, False),
        ("127.0.0.1", (), {"host": "localhost:8501", "origin": "http://attacker.example"}, False),
        ("127.0.0.1", (), {"host": "localhost:8501", "origin": "http://localhost:3000"}, False),
        ("127.0.0.1", (), {"host": "localhost:8501", "origin": "null"}, False),
        ("127.0.0.1", (), {"host": "[", "origin": "http://["}, False),
        ("127.0.0.1", ("http://localhost:3000",), {"host": "localhost", "origin": "http://localhost:3000"}, True),
        ("127.0.0.1", ("*",), {"host": "localhost", "origin": "null"}, True),
        ("0.0.0.0", (), {"host": "server.example"}, True),
        ("0.0.0.0", (), {"host": "server.example", "origin": "https://server.example"}, True),
        ("0.0.0.0", (), {"host": "server.example", "origin": "https://attacker.example"}, False),
    ],
)
def test_which_pages_may_ask(host: str, allowed: tuple[str, ...], headers: dict[str, str], admitted: bool) -> None:
    pages = OwnPages(lambda *_: None, host, allowed)  # type: ignore[arg-type, return-value]
    scope: Any = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    assert (pages._fault(scope) is None) == admitted


def test_a_foreign_page_gets_nothing(address: Address) -> None:
    for headers in ({"Origin": "http://attacker.example", "Content-Type": "text/plain"}, {"Host": "attacker.example"}):
        answer = address.post(PATH, ONE, headers=headers)
        assert (answer.status_code, "3.5" in answer.text) == (403, False)
        assert requests.get(f"{address.url}/", headers=headers, timeout=60).status_code == 403
    assert address.post(PATH, ONE, headers={"Origin": address.url}).status_code == 200


@pytest.mark.parametrize(
    ("options", "answered"),
    [({}, True), ({"allow_reload_config": "false"}, False), ({"host": "0.0.0.0"}, False)],
)
def test_a_reload_is_for_this_computer(base: Path, options: dict[str, Any], answered: bool) -> None:
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(f'model_config_list {{ config {{ name: "b" base_path: "{base}" }} }}', request.config)
    with running(model_name="a", model_base_path=str(base), **options) as address:
        if answered:
            address.models.HandleReloadConfigRequest(request, timeout=60)
            return
        with pytest.raises(grpc.RpcError, match="--allow_reload_config=true admits it") as caught:
            address.models.HandleReloadConfigRequest(request, timeout=60)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED  # type: ignore[attr-defined]
        assert address.post(PATH, ONE).status_code == 200
