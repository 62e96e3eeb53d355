"""Runs, exports and data in a bucket, by the commands, against a server of S3 over HTTP."""

import csv
import io
import json
import re
import shutil
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import Command, Server
from s3_server import client_of
from small import free_ports

from resnet_keras.cli.main import main
from resnet_keras.cli.remote_folders import with_copies
from resnet_keras.config.train import TrainConfig
from resnet_keras.models.saved import load_model
from resnet_keras.remote.stores import open_store
from resnet_keras.remote.working_copy import STATE, run_copy

FLAGS = [
    *("--epochs", "3", "--batch-size", "128", "--checkpoint-steps", "3", "--mixup", "0.2", "--ema", "0.99", "--quiet"),
    *("--model-options", "blocks", "1,1,1", "widths", "4,4,8", "stem_width", "4", "dropout", "0.1"),
]


def words_of(run_dir: str | Path, data_dir: str, *more: str) -> list[str]:
    return ["train", "digits", *FLAGS, "--run-dir", str(run_dir), "--data-dir", data_dir, *more]


@pytest.fixture(scope="module")
def undisturbed(commands: Server, data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a folder, which nothing stopped."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    code, said = commands.start(words_of(folder, data_dir)).finish()
    assert code == 0, said
    return folder


@pytest.fixture(scope="module")
def run_url(commands: Server, data_dir: str, s3: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run in the bucket, killed and gone on with from an empty cache, as on another machine."""
    url = "s3://bucket/runs/killed"
    caches = [tmp_path_factory.mktemp("cache") for _ in range(2)]
    environment = {**s3, "RESNET_KERAS_CACHE": str(caches[0])}
    command = commands.start(words_of(url, data_dir), False, None, **environment)
    wait_for_checkpoint(command, s3, "runs/killed", 12)
    command.send(signal.SIGKILL)
    assert command.finish()[0] == -signal.SIGKILL
    words = [word for word in words_of(url, data_dir) if word != "--quiet"]
    code, said = commands.start(words, False, None, **s3, RESNET_KERAS_CACHE=str(caches[1])).finish()
    assert code == 0, said
    assert "resuming after step" in said
    return url


def wait_for_checkpoint(command: Command, s3: dict[str, str], key: str, step: int, bucket: str = "bucket") -> None:
    """Until the state in the bucket has the checkpoint of a step, or of a later one."""
    client: Any = client_of(s3)
    while command.running:
        try:
            state = json.loads(client.get_object(Bucket=bucket, Key=f"{key}/{STATE}")["Body"].read())
        except client.exceptions.NoSuchKey:
            state = {"files": {}}
        if any(int(found[1]) >= step for name in state["files"] if (found := re.search(r"step-(\d+)", name))):
            return
        time.sleep(0.02)
    pytest.fail(f"the run ended before it was killed: {command.output.read_text()}")


def rows_of(text: str) -> list[dict[str, str]]:
    return [
        {name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(io.StringIO(text))
    ]


def test_a_killed_run_ends_as_one_that_nothing_stopped(undisturbed: Path, run_url: str, in_s3: dict[str, str]) -> None:
    folder = run_copy(run_url)
    one, two = load_model(undisturbed).get_weights(), load_model(folder).get_weights()
    assert len(one) == len(two) > 0
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert rows_of((folder / "metrics.csv").read_text()) == rows_of((undisturbed / "metrics.csv").read_text())
    plain = open_store(run_url).read("metrics.csv")
    assert plain == (folder / "metrics.csv").read_bytes()


@pytest.mark.slow  # a run that is killed goes the same way
def test_a_run_that_is_told_to_stop_has_its_checkpoint_in_the_bucket(
    commands: Server, data_dir: str, s3: dict[str, str], own_cache: Path, in_s3: dict[str, str]
) -> None:
    url = "s3://bucket/runs/stopped"
    command = commands.start(words_of(url, data_dir), False, None, **s3, RESNET_KERAS_CACHE=str(own_cache))
    wait_for_checkpoint(command, s3, "runs/stopped", 3)
    command.send(signal.SIGTERM)
    code, said = command.finish()
    assert (code, f"resnet-keras train {url} resumes it" in said) == (130, True), said
    newest = sorted(own_cache.rglob("checkpoints/*.npz"))[-1]
    shutil.rmtree(own_cache)
    assert sorted(run_copy(url).glob("checkpoints/*.npz"))[-1].name == newest.name
    shutil.rmtree(own_cache)
    code, said = commands.start(["train", url], False, None, **s3, RESNET_KERAS_CACHE=str(own_cache)).finish()
    assert code == 0, said
    assert f"resuming after step {int(newest.stem.split('-')[1])}" in said
    assert f"model and report in {url}" in said


def test_commands_read_a_run_of_the_bucket(
    undisturbed: Path, run_url: str, data_dir: str, in_s3: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for run in (str(undisturbed), run_url):
        assert main(["evaluate", run, "--data-dir", data_dir, "--json", "--quiet"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert found[0]["examples"] == 360


def test_an_export_to_the_bucket_is_served_from_it(
    run_url: str, in_s3: dict[str, str], commands: Server, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, (rest, grpc) = "s3://bucket/models/digits", free_ports(2)
    serve = ["serve", f"--model_base_path={url}", f"--rest_api_port={rest}", f"--port={grpc}"]
    assert main([*serve, "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "No versions of servable default found under base path s3://bucket/models/digits" in said
    assert export(run_url, url, capsys) == {"path": f"{url}/1", "version": 1}
    # What a killed export leaves: a graph without a manifest.
    store = open_store(url)
    store.write("2/saved_model.pb", b"half a graph")
    server = commands.start(serve, False, None, **in_s3, RESNET_KERAS_CACHE=str(own_cache / "server"))
    try:
        expected = load_model(run_copy(run_url)).predict(np.zeros((1, 8, 8, 1), "uint8"), verbose=0)
        answer = ask(rest, server)
        assert np.allclose(answer["predictions"], expected, atol=1e-5)
        assert versions(rest) == {"1": "AVAILABLE"}
        assert export(run_url, url, capsys) == {"path": f"{url}/3", "version": 3}
        end = time.monotonic() + 60
        while versions(rest).get("3") != "AVAILABLE":
            assert time.monotonic() < end, server.output.read_text()
            time.sleep(0.1)
        assert np.allclose(ask(rest, server)["predictions"], expected, atol=1e-5)
    finally:
        server.send(signal.SIGTERM)
    assert server.finish()[0] == 0
    assert not [name for name in store.files() if name.startswith(".export-")]


def export(run: str, url: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["export", run, "--output", url, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def versions(port: int) -> dict[str, str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/default", timeout=30) as answer:
        return {one["version"]: one["state"] for one in json.load(answer)["model_version_status"]}


def ask(port: int, server: Command) -> dict[str, Any]:
    body = json.dumps({"instances": [{"image": np.zeros((8, 8, 1), int).tolist()}]}).encode()
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/v1/models/default:predict", body, timeout=30
            ) as answer:
                return json.load(answer)
        except OSError:
            assert time.monotonic() < end, server.output.read_text()
            assert server.running, server.output.read_text()
            time.sleep(0.1)


def test_the_version_that_is_asked_for_and_exists_is_refused(
    run_url: str, in_s3: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    url = "s3://bucket/models/taken"
    assert main(["export", run_url, "--output", url, "--version", "4", "--quiet"]) == 0
    before = open_store(url).files()
    assert main(["export", run_url, "--output", url, "--version", "4", "--quiet"]) == 2
    assert "version 4 exists in s3://bucket/models/taken; leave --version out for 5" in capsys.readouterr().err
    assert open_store(url).files() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train digits --run-dir s3://missing/run", "cannot write to s3://missing/run: The specified bucket does not"),
        ("train s3://bucket/none", "s3://bucket/none has no run"),
        ("evaluate s3://bucket/none", "s3://bucket/none has no run"),
        ("train digits --data s3://bucket/none", "there is nothing in s3://bucket/none"),
        ("train digits --run-dir nosuch://bucket/run", "no file system is called nosuch://"),
        ("train digits --run-dir abfs://bucket/run", "abfs:// needs adlfs, which is not installed: pip install adlfs"),
        ("train digits --run-dir s3://", "s3:// names no bucket"),
        ("train digits --teacher s3://bucket/run", "teacher s3://bucket/run: it cannot be a remote folder here"),
        ("tune digits --trials 1 --run-dir s3://bucket/run", "run_dir s3://bucket/run: it cannot be a remote folder"),
        ("degradation --run-dir s3://bucket/run", "run_dir s3://bucket/run: it cannot be a remote folder here"),
        ("demo --output s3://bucket/run", "output s3://bucket/run: it cannot be a remote folder here"),
        ("rollback digits --models s3://bucket/models", "models s3://bucket/models: it cannot be a remote folder here"),
        (
            "export cifar10-jpeg --output s3://missing/m",
            "cannot write to s3://missing/m: The specified bucket does not",
        ),
        ("serve --model_base_path nosuch://bucket/run", "no file system is called nosuch://"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    words: str, said: str, in_s3: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words.split(), *(["--quiet"] if words.startswith("train") else [])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_addresses_of_other_services_are_no_folders() -> None:
    config = TrainConfig(data_service="grpc://host:5000", weights="hf://owner/name")
    assert with_copies(config) is config


@pytest.mark.slow  # 10 s: test_working_copy has stores that refuse
def test_a_bucket_that_refuses_during_a_run_loses_nothing(
    commands: Server, data_dir: str, s3: dict[str, str], own_cache: Path, in_s3: dict[str, str], undisturbed: Path
) -> None:
    client: Any = client_of(s3)
    client.create_bucket(Bucket="goes")
    url = "s3://goes/run"
    command = commands.start(words_of(url, data_dir), False, None, **s3, RESNET_KERAS_CACHE=str(own_cache))
    wait_for_checkpoint(command, s3, "run", 3, "goes")
    command.send(signal.SIGSTOP)
    empty(client, "goes")
    client.delete_bucket(Bucket="goes")
    command.send(signal.SIGCONT)
    code, said = command.finish()
    assert code == 2, said
    assert said.splitlines()[-1].startswith(
        "resnet-keras: cannot write to s3://goes/run: The specified bucket does not"
    )
    (kept,) = re.findall(r"the run's state is kept in (\S+), and goes to s3://goes/run", said.splitlines()[-1])
    assert np.array_equal(*(load_model(run).get_weights()[0] for run in (kept, undisturbed)))
    client.create_bucket(Bucket="goes")
    code, said = commands.start(words_of(url, data_dir), False, None, **s3, RESNET_KERAS_CACHE=str(own_cache)).finish()
    assert code == 0, said
    shutil.rmtree(own_cache)
    assert np.array_equal(*(load_model(run).get_weights()[0] for run in (run_copy(url), undisturbed)))


def empty(client: Any, bucket: str) -> None:
    for found in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        client.delete_object(Bucket=bucket, Key=found["Key"])


@pytest.mark.usefixtures("in_s3", "only_models")
def test_images_and_prepared_data_of_the_bucket(
    data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("s3://bucket/data")
    for path in Path(data_dir, "digits").rglob("*"):
        if path.is_file():
            store.upload(path, f"tfds/digits/{path.relative_to(Path(data_dir, 'digits')).as_posix()}")
    folder = images_in(tmp_path / "images")
    for path in folder.rglob("*.png"):
        store.upload(path, f"images/{path.relative_to(folder).as_posix()}")
    losses = []
    for data, prepared in ((folder, data_dir), ("s3://bucket/data/images", "s3://bucket/data/tfds")):
        for given in (["--data", str(data), "--batch-size", "16"], ["--data-dir", prepared, "--batch-size", "128"]):
            words = ["train", "digits", *FLAGS[4:], "--epochs", "1", "--checkpoint-steps", "1000"]
            words += ["--image-size", "8", *given, "--json"]
            assert main([*words, "--quiet"]) == 0
            losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[:2] == losses[2:]


def images_in(folder: Path) -> Path:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 8, 8), "uint8")
    for label, images in zip("ab", pixels, strict=True):
        (folder / label).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / label / f"{i}.png")
    return folder


@pytest.mark.slow  # runs in s3:// go the same way, and test_stores.py has what each store promises
def test_a_run_in_gs_by_tensorflow(commands: Server, data_dir: str, own_cache: Path, in_gs: dict[str, str]) -> None:
    url = "gs://bucket/run"
    words = [*words_of(url, data_dir), "--epochs", "1", "--checkpoint-steps", "1000"]
    code, said = commands.start(words, False, None, **in_gs, RESNET_KERAS_CACHE=str(own_cache)).finish()
    assert code == 0, said
    (here,) = own_cache.rglob("model.keras")
    weights = load_model(here).get_weights()
    shutil.rmtree(own_cache)
    assert all(np.array_equal(a, b) for a, b in zip(weights, load_model(run_copy(url)).get_weights(), strict=True))
