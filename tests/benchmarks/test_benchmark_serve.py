"""The search for the settings of a server: what is tried, what is taken, and the commands that come of it."""

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import pytest
from small import TINY

import resnet_keras as rk
from resnet_keras.benchmarks import serving
from resnet_keras.benchmarks.rounds import Effort
from resnet_keras.benchmarks.server_settings import (
    CALLER_THREAD,
    ServerSetting,
    _listed,
    first_settings,
    further_settings,
)
from resnet_keras.benchmarks.serving import Search, best_of, search
from resnet_keras.benchmarks.variants import Sample
from resnet_keras.cli.main import _parse
from resnet_keras.errors import UsageError
from resnet_keras.serving.config_files import read_batching
from resnet_keras.serving.process import ServerProcess


def test_settings() -> None:
    settings = first_settings(4)
    assert [(s.intra_op, s.inter_op, s.caller_thread) for s in settings] == [
        (0, 0, False),
        (0, 0, True),
        (1, 4, False),
        (4, 1, False),
        (4, 1, True),
    ]
    assert len({s.name for s in settings}) == len(settings)
    assert settings[0].flags == []
    assert settings[4].environment == {CALLER_THREAD: "1"}
    assert all(s.intra_op != 1 for s in first_settings(1)[:2])


def test_settings_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_keras.benchmarks.server_settings.SIBLINGS", "/nowhere/{}")
    batches, cores = further_settings(ServerSetting("best", 1, 4), [0, 1, 2, 3], 8)
    assert (batches.batch, batches.batch_threads, batches.cores) == (2, 4, ())
    assert (cores.cores, cores.intra_op, cores.inter_op) == ((0, 1, 2), 1, 3)
    assert further_settings(ServerSetting("best"), [0], 1) == []
    assert _listed("0-2,8") == [0, 1, 2, 8]


def test_a_core_of_each_sibling_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_keras.benchmarks.server_settings.SIBLINGS", str(tmp_path / "{}"))
    for core in range(4):
        (tmp_path / str(core)).write_text(f"{core % 2},{core % 2 + 2}\n")
    (cores,) = further_settings(ServerSetting("best"), [0, 1, 2, 3], 1)
    assert cores.cores == (0, 1)


def test_commands(tmp_path: Path) -> None:
    setting = ServerSetting("it", 1, 2, caller_thread=True, batch=4, cores=(0, 2))
    words = shlex.split(setting.command("resnet-keras serve", "saved_models/digits"))
    assert words[:4] == [f"{CALLER_THREAD}=1", "taskset", "-c", "0,2"]
    command: Any = _parse(words[5:])
    command.check()
    assert (command.tensorflow_intra_op_parallelism, command.tensorflow_inter_op_parallelism) == (1, 2)
    assert command.enable_batching
    (tmp_path / "batching.config").write_text(setting.batching)
    assert read_batching(tmp_path / "batching.config").max_batch_size == 4


def rates(*values: Sequence[float]) -> list[Any]:
    variant = serving.Variant("group", "name", serving.NOBODY)
    return [serving.Measured(variant, tuple(Sample(rate, 1.0) for rate in own), {}) for own in values]


def test_the_first_stays_unless_another_is_faster_by_more_than_the_spread() -> None:
    assert best_of(rates([10, 11, 12], [9, 13, 12], [10, 10, 10])) == 0
    assert best_of(rates([10, 11, 12], [20, 22, 24], [30, 33, 35])) == 2
    assert best_of(rates([10, 11, 12])) == 0


def test_a_search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Servers whose ports say how fast they are: a thread a request helps, and batches on top of it."""
    started: list[tuple[list[str], Mapping[str, str], tuple[int, ...]]] = []

    @contextlib.contextmanager
    def server(flags: list[str], environment: Mapping[str, str], cores: tuple[int, ...]) -> Iterator[ServerProcess]:
        started.append((flags, environment, cores))
        rate = 200 if "--tensorflow_intra_op_parallelism=1" in flags else 100
        rate += 100 * ("--enable_batching=true" in flags)
        process: Any = None
        yield ServerProcess(process, f"rest:{rate}", f"grpc:{rate}")

    monkeypatch.setattr(serving, "server_process", server)
    monkeypatch.setattr(serving, "CLIENTS", "stand_ins:clients")
    monkeypatch.setattr(serving, "DESCRIPTION", "stand_ins:description")
    monkeypatch.setattr(serving, "usable_cores", lambda: [0, 1])
    found = search(Search(tmp_path / "net", tmp_path / "net" / "1", 2, "rest", Effort(2, 0.01)))
    assert found.best.name == "a thread a request (intra_op=1 inter_op=2), batches of 2 at most"
    assert found.gain == pytest.approx(3.0)
    assert found.decoding == pytest.approx(0.5)
    groups = list(dict.fromkeys(one.variant.group for one in found.measured))
    assert groups[0] == "net, threads, 2 clients, REST"
    assert [one.variant.name for one in found.measured[-3:]] == ["REST", "gRPC", "gRPC, pixels"]
    told = found.to_dict("saved_models/net")
    assert "--enable_batching=true" in told["tensorflow_model_server"]
    assert told["tensorflow_model_server"].startswith("tensorflow_model_server --model_base_path=saved_models/net")
    assert all(f"--model_base_path={tmp_path / 'net'}" in flags for flags, *_ in started)


def test_a_server_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def server(*_: object) -> Any:
        raise RuntimeError("it did not listen")

    monkeypatch.setattr(serving, "server_process", server)
    monkeypatch.setattr(serving, "CLIENTS", "stand_ins:clients")
    monkeypatch.setattr(serving, "DESCRIPTION", "stand_ins:description")
    with pytest.raises(UsageError, match="the server with as TensorFlow chooses: it did not listen"):
        search(Search(tmp_path, tmp_path, 2, "rest", Effort(2, 0.01)))


@pytest.mark.slow  # half a minute: three servers and two processes beside them
def test_two_settings_of_a_real_server(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    network = rk.create_model("cifar_resnet20", input_shape=(8, 8, 3), include_preprocessing=True, **TINY)
    folder = rk.export_servable(network, tmp_path / "tiny")
    settings = (
        ServerSetting("one"),
        ServerSetting("two", 1, 1, caller_thread=True, cores=(min(os.sched_getaffinity(0)),)),
    )
    found = search(Search(folder.parent, folder, 2, "grpc", Effort(2, 0.1), batching=False, settings=settings))
    assert len(found.measured) == 5
    assert all(sample.rate > 0 and sample.extra["p99"] > 0 for one in found.measured for sample in one.samples)
    assert found.best in settings
