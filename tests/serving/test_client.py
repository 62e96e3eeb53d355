"""`resnet-keras client`, against the local server."""

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_models import Address, running

from resnet_keras.cli.main import main
from resnet_keras.errors import UsageError, needs_extra
from resnet_keras.serving.process import free_ports, server_process


@pytest.fixture(scope="module")
def served(servable: Path) -> Iterator[Address]:
    with running(model_name="digits", model_base_path=str(servable.parent), enable_batching=True) as address:
        yield address


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_folder_many_times(
    served: Address, image_folder: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = served.rest if protocol == "rest" else served.grpc
    words = ["client", str(image_folder), "--server", server, "--model", "digits", "--protocol", protocol]
    assert main([*words, "--concurrency", "4", "--repeat", "3", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["requests"], printed["failed"], len(printed["answers"])) == (36, 0, 12)
    assert sum(row["requests"] for row in printed["histogram"]) == 36
    assert printed["latency_ms"]["p50"] <= printed["latency_ms"]["p99"]
    assert all(answer["version"] == 1 and len(answer["labels"]) == 5 for answer in printed["answers"])
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "12 requests in" in said
    assert "latency p50" in said


def test_one_image(served: Address, digit_png: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["client", str(digit_png), "--server", served.rest, "--model", "digits"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{digit_png}: ")


WITHOUT_THE_EXTRA = """
import sys
for name in ("grpc_health", "grpc_reflection", "starlette", "uvicorn", "orjson", "prometheus_client"):
    sys.modules[name] = None  # as if it were not installed
sys.argv[0], png, server, base = "bin/resnet-keras", *sys.argv[1:]  # the program's name, for which TensorFlow waits
from resnet_keras.cli.main import main
assert main(["client", png, "--server", server, "--model", "digits"]) == 0
assert "tensorflow" not in sys.modules
from resnet_keras.startup import import_tensorflow
import_tensorflow()
import resnet_keras.export.servable, resnet_keras.inference.predict, resnet_keras.training.trainer, tuning.costs
assert main(["serve", "--model_base_path", base]) == 2
"""


def test_rest_needs_neither_tensorflow_nor_the_extra_that_serve_needs(
    served: Address, servable: Path, digit_png: Path
) -> None:
    words = [sys.executable, "-c", WITHOUT_THE_EXTRA, str(digit_png), served.rest, str(servable.parent)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{digit_png}: ")
    assert re.fullmatch(
        r"resnet-keras: serve needs \S+, which is not installed: pip install 'resnet-keras\[serve\]'\n", done.stderr
    )


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("grpc", "client needs grpcio, which is not installed: pip install 'resnet-keras[serve]'"),
        ("grpc_health.v1", "client needs grpcio-health-checking, "),
        ("orjson", "client needs orjson, "),
    ],
)
def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, module: str, words: str) -> None:
    for name in (module, module.split(".")[0]):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=re.escape(words)), needs_extra("client", "serve"):
        importlib.import_module(module)


@pytest.mark.parametrize(("code", "kind"), [(2, UsageError), (1, RuntimeError)])
def test_a_server_process_that_refuses_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, kind: type[Exception]
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho 'resnet-keras: serve needs orjson' >&2\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    words = "^serve needs orjson$" if code == 2 else "exit code 1: resnet-keras: serve needs orjson"
    with pytest.raises(kind, match=words), server_process([]):
        pass


def test_a_module_of_ours_that_is_not_there_is_no_usage_error() -> None:
    with pytest.raises(ModuleNotFoundError), needs_extra("client", "serve"):
        importlib.import_module("resnet_keras.no_such_module")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give at least one image"),
        (["{png}", "--protocol", "soap"], "unknown protocol 'soap'"),
        (["{png}", "--concurrency", "0"], "concurrency must be at least 1"),
        (["{png}", "--timeout", "0"], "timeout must be more than 0 seconds"),
        (["{png}", "--version", "1", "--label", "x"], "give --version or --label, not both"),
        (["{png}", "--model", "other"], "request: Latest(other); models here: digits; give --model NAME"),
        (["{png}", "--version", "9"], "Specific(digits, 9)"),
        (["{png}", "--label", "x"], "Unrecognized servable version label: x"),
        (["/no/such/file"], "cannot read /no/such/file"),
        (["{empty}"], "there is no image in"),
        (["{junk}"], "no image can be read"),
        (["{png}", "--server", "localhost:{closed}"], "cannot reach localhost:"),
        (["{png}", "--server", "localhost:{closed}", "--protocol", "grpc", "--timeout", "5"], "refused: UNAVAILABLE"),
    ],
)
def test_what_goes_wrong_is_one_line(
    served: Address, digit_png: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.png").write_bytes(b"junk")
    places = {"png": digit_png, "empty": tmp_path / "empty", "junk": tmp_path / "junk.png", "closed": free_ports()[0]}
    given = ["--server", served.rest, "--model", "digits"]
    assert main(["client", *[word.format(**places) for word in words], *(given[:2] if "--server" not in words else []),
                 *(given[2:] if "--model" not in words else [])]) == 2  # fmt: skip
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
