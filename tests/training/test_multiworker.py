"""Two workers on this machine: they give the one-process result, and outlive the death of one."""

import contextlib
import dataclasses
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from forked import Command, Server
from small import TINY, free_ports

import resnet_keras as rk
from resnet_keras.config.train import TrainConfig
from resnet_keras.errors import UsageError
from resnet_keras.training import devices
from resnet_keras.training.checkpoints import checkpoints
from resnet_keras.training.devices import make_strategy, refusals_told
from resnet_keras.training.trainer import run

FLAGS = ["--epochs", "2", "--batch-size", "128", "--checkpoint-steps", "4", "--mixup", "0.2", "--ema", "0.9"]
FLAGS += ["--model-options", *(str(word) for pair in TINY.items() for word in pair)]
SECONDS = 240


@contextlib.contextmanager
def workers(commands: Server, folder: Path, data_dir: str, *more: str) -> Iterator[list[Command]]:
    """The two processes of a run with two workers."""
    words = ["train", "digits", *FLAGS, "--run-dir", str(folder), "--data-dir", data_dir, *more]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    pair = []
    for index in range(2):
        task = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        pair.append(commands.start(words, TF_CONFIG=task))
    try:
        yield pair
    finally:
        for command in pair:
            if command.running:
                command.send(signal.SIGKILL)


def after_a_checkpoint(folder: Path, command: Command, number: int) -> None:
    """Send a worker a signal once there is a checkpoint."""
    started = time.monotonic()
    while not checkpoints(folder) and time.monotonic() - started < SECONDS:
        time.sleep(0.05)
    command.send(number)


def test_two_workers_give_the_one_process_result_though_one_is_killed(
    commands: Server, tiny: TrainConfig, tmp_path: Path, data_dir: str
) -> None:
    config = dataclasses.replace(
        tiny, strategy="mirrored", ema=0.9, augmentation=dataclasses.replace(tiny.augmentation, mixup=0.2)
    )
    run(dataclasses.replace(config, run_dir=str(tmp_path / "one")))
    folder = tmp_path / "two"
    with workers(commands, folder, data_dir) as pair:
        after_a_checkpoint(folder, pair[1], signal.SIGKILL)
        code, said = pair[0].finish(SECONDS)
    assert code == 1
    assert "another host of the run has gone" in said
    assert "Traceback" not in said
    assert not (folder / "metrics.json").exists()
    with workers(commands, folder, data_dir) as pair:
        for command in pair:
            code, said = command.finish(SECONDS)
            assert code == 0, said
    ours, theirs = (rk.load_model(tmp_path / name).get_weights() for name in ("one", "two"))
    # The same sums in another order, and what the kill left out was done again; 22 steps let rounding grow.
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(two, one, rtol=0.02, atol=2e-3)
    rows = [(tmp_path / name / "metrics.json").read_text() for name in ("one", "two")]
    assert json.loads(rows[0])["accuracy"] == pytest.approx(json.loads(rows[1])["accuracy"], abs=0.02)


@pytest.mark.slow  # 30 s; test_resume stops a run of one process
def test_one_worker_asked_to_stop_stops_both_after_the_same_step(
    commands: Server, tmp_path: Path, data_dir: str
) -> None:
    folder = tmp_path / "run"
    with workers(commands, folder, data_dir, "--epochs", "9") as pair:
        after_a_checkpoint(folder, pair[1], signal.SIGTERM)
        assert [command.finish(SECONDS)[0] for command in pair] == [130, 130]
    assert not (folder / "metrics.json").exists()


def test_what_one_host_refuses_is_told_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, str]] = []
    tells = SimpleNamespace(report_error_to_cluster=lambda *words: told.append(words))
    monkeypatch.setattr(devices, "context", SimpleNamespace(context=lambda: tells))
    monkeypatch.setattr(devices, "host_of", lambda _: (1, 2))
    with pytest.raises(UsageError), refusals_told(tf.distribute.get_strategy()):
        raise UsageError("cannot write to /shared")
    with pytest.raises(UsageError), refusals_told(tf.distribute.get_strategy()):  # which came from another
        raise UsageError("host 0: cannot write to /other") from tf.errors.AbortedError(None, None, "refused")
    assert told == [(tf.errors.ABORTED, "refused: cannot write to /shared")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "TF_CONFIG is not like"),
        ('{"task": {}}', "TF_CONFIG is not like"),
        ('{"cluster": {}}', "strategy multiworker finds no hosts"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}', "is not among its workers"),
    ],
)
def test_a_wrong_tf_config_is_refused(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError, match=message):
        make_strategy("multiworker")


def test_no_tpu_is_said() -> None:
    with pytest.raises(UsageError, match="strategy tpu: no TPU can be reached"):
        make_strategy("tpu")
