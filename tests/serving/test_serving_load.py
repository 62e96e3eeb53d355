"""The server under load: versions that come and go, requests that are wrong.

A process of its own where its memory, its signals or its life are looked at; else a server in this process.
"""

import base64
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import keras
import numpy as np
import psutil
import pytest
import requests
from forked import Command, Server
from serving_models import Address, config_of, half_plus, predict_request, running
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import resnet_keras as rk
from resnet_keras.cli.main import main
from resnet_keras.export.versions import rollback
from resnet_keras.serving.process import free_ports

ONE = {"instances": [1.0]}
SEED = 0


@contextlib.contextmanager
def load(ask: Callable[[], Any], threads: int = 4) -> Iterator[Counter]:
    """Ask from several threads for as long as the block lasts; counts what came back."""
    results: Counter[Any] = Counter()
    stop, lock = threading.Event(), threading.Lock()

    def work() -> None:
        while not stop.is_set():
            answer = ask()
            with lock:
                results[answer] += 1

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield results
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Served:
    """A server in a process of its own, and where it is."""

    command: Command
    rest: str
    grpc: str

    @property
    def memory(self) -> float:
        """MiB."""
        return psutil.Process(self.command.number).memory_info().rss / 2**20


def rest(server: Served | Address, model: str, body: Any = ONE) -> Callable[[], Any]:
    """A function that asks over a connection of its thread's own: status code, version, first prediction."""
    mine, data = threading.local(), json.dumps(body).encode()  # once: the load is to be the server's

    def ask() -> Any:
        if not hasattr(mine, "session"):
            mine.session = requests.Session()
        response = mine.session.post(f"http://{server.rest}/v1/models/{model}:predict", data, timeout=60)
        if response.status_code != 200:
            return response.status_code
        return 200, int(response.headers["model-version"]), response.json()["predictions"][0]

    return ask


def states(server: Served | Address, model: str) -> dict[int, str]:
    rows = requests.get(f"http://{server.rest}/v1/models/{model}", timeout=60).json()["model_version_status"]
    return {int(row["version"]): row["state"] for row in rows}


def available(server: Served | Address, model: str) -> set[int]:
    return {version for version, state in states(server, model).items() if state == "AVAILABLE"}


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@contextlib.contextmanager
def served(commands: Server, *flags: str) -> Iterator[Served]:
    ports = free_ports()
    where = ["--rest_api_port", str(ports[0]), "--port", str(ports[1])]
    command = commands.start(["serve", "--quiet", *where, *flags])
    try:
        wait_for(lambda: listens(ports[0]) or not command.running)
        yield Served(command, *(f"127.0.0.1:{port}" for port in ports))
    finally:
        command.send(signal.SIGTERM)
        code, said = command.finish()
    assert code == 0, said


def publish(made: Path, base: Path, version: int) -> None:
    """A version appears at once, as `export` does it."""
    shutil.copytree(made, base / ".made")
    os.rename(base / ".made", base / str(version))


@pytest.mark.parametrize(
    ("batching", "swaps", "own_process"),
    [
        (False, 3, False),
        pytest.param(True, 3, False, marks=pytest.mark.slow),  # 9 s: the one above, and batches in test_batching
        pytest.param(False, 30, True, marks=pytest.mark.slow),  # 90 s
        pytest.param(True, 5, True, marks=pytest.mark.slow),  # 25 s
    ],
)
def test_swaps_under_load_fail_nobody(
    commands: Server, tmp_path: Path, batching: bool, swaps: int, own_process: bool
) -> None:
    base = tmp_path / "m"
    versions = {number: half_plus(number, tmp_path / "made" / str(number)) for number in range(1, swaps + 2)}
    base.mkdir()
    publish(versions[1], base, 1)
    with contextlib.ExitStack() as stack:
        if own_process:
            flags = ["--model_name", "m", "--model_base_path", str(base)]
            server = stack.enter_context(served(commands, *flags, *(["--enable_batching=true"] if batching else [])))
        else:
            options = {"model_name": "m", "model_base_path": str(base), "enable_batching": batching}
            server = stack.enter_context(running(**options, file_system_poll_wait_seconds=0.1))
        with load(rest(server, "m")) as results:
            for number in range(2, swaps + 2):
                publish(versions[number], base, number)
                wait_for(lambda n=number: available(server, "m") == {n})  # type: ignore[misc]
                if number == 4:
                    (base / "99").mkdir()
                    (base / "99" / "saved_model.pb").write_bytes(b"\x0a\xff" * 1000)
                    wait_for(lambda: states(server, "m").get(99) == "END")  # it was tried
                    assert available(server, "m") == {4}
                    shutil.rmtree(base / "99")
        assert {answer[0] for answer in results} == {200}
        assert {answer[1] for answer in results} == set(range(1, swaps + 2))
        assert all(prediction == 0.5 + version for _, version, prediction in results)


@pytest.mark.slow
def test_export_and_rollback_reach_a_running_server(
    small_model: keras.Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = tmp_path / "saved_models"
    rk.export_servable(small_model, models / "digits")
    config = models / "models.config"
    polls = {"model_config_file_poll_wait_seconds": 0.1, "file_system_poll_wait_seconds": 0.1}
    with running(model_config_file=str(config), **polls) as server:
        assert available(server, "digits") == {1}
        rk.export_servable(small_model, models / "digits")
        wait_for(lambda: available(server, "digits") == {1, 2})
        for label, version in (("stable", 1), ("canary", 2)):
            url = f"http://{server.rest}/v1/models/digits/labels/{label}/metadata"
            assert requests.get(url, timeout=60).json()["model_spec"]["version"] == str(version)
        text = config.read_text()
        config.write_text("junk {")
        wait_for(lambda: "models.config cannot be followed" in caplog.text)
        assert available(server, "digits") == {1, 2}
        config.write_text(text)
        rollback(models, "digits")
        wait_for(lambda: available(server, "digits") == {1})


def test_overload_is_refused_and_sigterm_answers_what_is_under_way(commands: Server, tmp_path: Path) -> None:
    half_plus(2, tmp_path / "slow" / "1", steps=20)
    half_plus(2, tmp_path / "slower" / "1", steps=60)
    limits = ["--max_waiting_requests", "8", "--rest_api_num_threads", "2"]
    with served(commands, "--model_config_file", config_of(tmp_path, "slow", "slower"), *limits) as server:
        ask = rest(server, "slow")
        assert ask() == (200, 1, 2.5)
        before = server.memory
        large = {"instances": [1.0] * 100_000}
        with load(ask, 24) as results, load(rest(server, "slow", large), 8) as larger:
            wait_for(lambda: results[503] > 300 and larger[503] > 30 and results[200, 1, 2.5] > 10)
        codes = {answer if isinstance(answer, int) else answer[0] for answer in [*results, *larger]}
        assert codes == {200, 503}
        assert server.memory - before < 300
        assert ask() == (200, 1, 2.5)

        answers: list[Any] = []
        ask = rest(server, "slower")
        request = predict_request("slower", {"x": np.array([1], "float32")})
        channel = grpc.insecure_channel(server.grpc)

        def by_grpc() -> Any:
            response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
            return 200, response.model_spec.version.value, response.outputs["y"].float_val[0]

        calls = [*[ask] * 3, *[by_grpc] * 3]
        workers = [threading.Thread(target=lambda call=call: answers.append(call())) for call in calls]
        for worker in workers:
            worker.start()
        time.sleep(0.3)
        assert len(answers) < 6  # else nothing was under way
        server.command.send(signal.SIGTERM)
        for worker in workers:
            worker.join()
        assert answers == [(200, 1, 2.5)] * 6
        assert server.command.finish(60)[0] == 0
        with pytest.raises(requests.ConnectionError):
            ask()


def test_ctrl_c_is_an_orderly_end_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half_plus(2, tmp_path / "m" / "1")
    ports = free_ports()

    def interrupt() -> None:
        wait_for(lambda: listens(ports[0]))  # after that, the signal is the server's
        os.kill(os.getpid(), signal.SIGINT)

    flags = ["--rest_api_port", str(ports[0]), "--port", str(ports[1]), "--quiet"]
    thread = threading.Thread(target=interrupt)
    thread.start()
    assert main(["serve", "--model_name", "m", "--model_base_path", str(tmp_path / "m"), *flags]) == 130
    thread.join()
    assert capsys.readouterr().err.strip() == "resnet-keras: interrupted"
    assert not listens(ports[0])


def wrong_requests(seed: int) -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    """Method, path, body and headers, without end."""
    rng = random.Random(seed)
    names = ["digits", "m", "x", "", "..", "%", "%00", "a" * 3000, "{}", "digits:predict"]
    versions = ["", "/versions/1", "/versions/7", f"/versions/{2**64}", "/versions/-1", "/labels/x", "/labels/%ff"]
    ends = [":predict", ":classify", ":regress", "/metadata", "", ":", "/predict", ":predict?x=1", "//"]
    signatures = ["serving_default", "image_bytes", "features", "x", 3, None, [], "two"]
    leaves: list[Any] = [0, -1, 1.5, 2**70, 1e400, "a", "", True, None, {}, {"b64": "!"}, {"b64": "aGk="}, {"a": 1}, []]

    def value(depth: int) -> Any:
        if depth and rng.random() < 0.6:
            return [value(depth - 1) for _ in range(rng.randrange(4))]
        return rng.choice(leaves)

    while True:
        method = rng.choice(["POST"] * 12 + ["GET", "GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
        path = f"/v1/models/{rng.choice(names)}{rng.choice(versions)}{rng.choice(ends)}"
        kind, headers = rng.random(), {}
        if kind < 0.15:
            body = rng.randbytes(rng.randrange(200))
        elif kind < 0.25:
            body = b'{"instances": ' + b"[" * rng.randrange(3000) + b"1" + b"]" * rng.randrange(3000) + b"}"
        elif kind < 0.3:
            body, headers = b"{}", {"X-Long": "a" * rng.choice([100, 60_000, 200_000])}
        else:
            key = rng.choice(["instances", "inputs"])
            named = rng.choice(["image", "image_bytes", "x", "a"])
            inner = value(5) if rng.random() < 0.6 else {named: value(5)}
            request = {key: inner if key == "inputs" else [inner] * rng.randrange(3)}
            if rng.random() < 0.7:
                request["signature_name"] = rng.choice(signatures)
            if rng.random() < 0.2:
                request["output_filter"] = rng.choice([["y"], ["labels"], [3], "y", []])
            body = json.dumps(request).encode()
            if rng.random() < 0.1:
                body = body[: rng.randrange(len(body))]
        yield method, path, body, headers


def png_bomb() -> bytes:
    """A PNG whose header asks for 60,000 by 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def fuzzed(servable: Path, commands: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("fuzzed")
    shutil.copytree(servable, folder / "digits" / "7")
    half_plus(2, folder / "m" / "1")
    with served(commands, "--model_config_file", config_of(folder, "digits", "m")) as server:
        yield server


def send(server: Served, method: str, path: str, body: bytes, headers: dict[str, str]) -> int:
    """The status of an answer; 0 where the server closed the connection on what was no HTTP."""
    connection = http.client.HTTPConnection(server.rest, timeout=60)
    try:
        connection.putrequest(method, path, skip_host=False)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse().status
    except (http.client.HTTPException, ConnectionError):
        return 0
    finally:
        connection.close()


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])  # 10,000 take 25 s
def test_malformed_requests_break_nothing(fuzzed: Served, digit_png: Path, count: int) -> None:
    requests_ = wrong_requests(SEED)
    for _ in range(300):  # what TensorFlow and Python set up once
        send(fuzzed, *next(requests_))
    before, statuses = fuzzed.memory, Counter[int]()
    for _ in range(count):
        method, path, body, headers = next(requests_)
        status = send(fuzzed, method, path, body, headers)
        assert status < 500 or status in (501, 503), (method, path, body, status)
        statuses[status] += 1
    assert statuses[400] > count / 5
    assert fuzzed.memory - before < min(100, 20 + count / 100)
    before = fuzzed.memory
    assert send(fuzzed, "POST", "/v1/models/digits:predict", image_request(png_bomb()), {}) == 400
    assert fuzzed.memory - before < 50
    assert send(fuzzed, "POST", "/v1/models/digits:predict", image_request(digit_png.read_bytes()), {}) == 200


def image_request(image: bytes) -> bytes:
    encoded = {"b64": base64.b64encode(image).decode()}
    return json.dumps({"signature_name": "image_bytes", "instances": [encoded]}).encode()


def test_malformed_grpc_requests_break_nothing(fuzzed: Served) -> None:
    rng = random.Random(SEED)
    sizes = [0, 1, 2, 8, -1, 2**40, 2**62]
    with grpc.insecure_channel(fuzzed.grpc) as channel:
        raw = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        codes = Counter[str]()
        for _ in range(2000):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = rng.choice(["digits", "m", "x"])
            request.model_spec.signature_name = rng.choice(["", "image_bytes", "features", "two", "x"])
            for name in rng.sample(["image", "image_bytes", "x", "a", "b"], rng.randrange(3)):
                proto = request.inputs[name]
                proto.dtype = rng.choice([0, 1, 3, 4, 7, 9, 14, 20, 21, 101, 999])
                for _ in range(rng.randrange(5)):
                    proto.tensor_shape.dim.add(size=rng.choice(sizes))
                proto.float_val.extend([1.0] * rng.randrange(3))
                proto.int_val.extend([rng.choice([0, 300, -1])] * rng.randrange(3))
                proto.string_val.extend([b"junk"] * rng.randrange(3))
                proto.tensor_content = rng.randbytes(rng.choice([0, 0, 4, 64]))
            body = request.SerializeToString() if rng.random() < 0.8 else rng.randbytes(rng.randrange(50))
            try:
                raw(body, timeout=60)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1  # type: ignore[attr-defined]
        assert set(codes) <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"}, codes
        health = channel.unary_unary("/grpc.health.v1.Health/Check")
        for _ in range(20):
            with pytest.raises(grpc.RpcError, match="no message for /grpc.health.v1.Health/Check"):
                health(b"\xff\xff", timeout=60)
    assert fuzzed.command.running


def test_what_is_no_http(fuzzed: Served) -> None:
    host, port = fuzzed.rest.split(":")
    rng = random.Random(SEED)
    negative = b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n"
    for text in [b"\0" * 100_000, rng.randbytes(5000), b"GET " + b"a" * 300_000, negative]:
        with socket.create_connection((host, int(port)), 10) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(text)
            with contextlib.suppress(OSError):  # the server may have hung up already
                connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(100)
            assert not answer or answer.startswith(b"HTTP/1.1 4")
    assert requests.get(f"http://{fuzzed.rest}/v1/models/m", timeout=60).status_code == 200


def test_a_slow_body_is_not_waited_for(tmp_path: Path) -> None:
    half_plus(2, tmp_path / "m" / "1")
    with running(model_name="m", model_base_path=str(tmp_path / "m"), rest_api_timeout_in_ms=500) as server:
        host, port = server.rest.split(":")
        with socket.create_connection((host, int(port)), 30) as connection:
            connection.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            assert connection.recv(100).startswith(b"HTTP/1.1 504")
        assert rest(server, "m")() == (200, 1, 2.5)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "give --model_base_path or --model_config_file"),
        (["--model_base_path", "/no/such/folder"], "there is no folder /no/such/folder"),
        (["--no_such_flag"], "no_such_flag"),
        (["--rest_api_port", "x"], "x"),
    ],
)
def test_wrong_words_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ports = [] if "--rest_api_port" in flags else ["--rest_api_port", str(free_ports()[0])]
    assert main(["serve", *flags, *ports]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1
