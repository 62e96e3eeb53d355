"""Searches: spaces whose every draw is a config, trials that survive kills, and what is said of the results."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from forked import Command, Server
from keras_tuner.errors import FatalTypeError

from resnet_keras.cli.main import main
from resnet_keras.cli.tune import tuning_module
from resnet_keras.config.duration import seconds_of
from resnet_keras.config.recipes import recipe
from resnet_keras.config.stored import config_from_json
from resnet_keras.config.train import TrainConfig
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import ArraySplit, Source, hold_out
from resnet_keras.errors import UsageError
from resnet_keras.models.complexity import complexity
from resnet_keras.serving.process import free_ports
from resnet_keras.training import reporters
from resnet_keras.training.setup import image_format_for, network_of
from tuning import oracles
from tuning.costs import Bounds, Cost, count, latency_of, refusal
from tuning.hypermodel import ResNetHyperModel
from tuning.oracles import Status, make_oracle
from tuning.report import TrialRow, front, varying_of
from tuning.results import Results, mean_and_deviation
from tuning.runs import RunError, run
from tuning.search import SearchConfig
from tuning.spaces import SPACES, draw, find_space

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:(getName|currentThread)\\(\\) is deprecated:DeprecationWarning")
TINY_NET = {"blocks": "1,1,1", "widths": "8,8,8", "stem_width": 8}
SMALL = """
import dataclasses
from resnet_keras.config.recipes import recipe
from resnet_keras.config.train import Augmentation

def space(hp):
    config = dataclasses.replace(recipe("digits"), name="small", model_options={"blocks": "1,1,1"}, epochs=%d)
    rate = hp.Float("rate", 0.01, 0.4, sampling="log")
    width = hp.Choice("width", [8, 16])
    options = {"blocks": "1,1,1", "widths": f"{width},{width},{width}", "shortcut": "B"}
    optimizer = dataclasses.replace(config.optimizer, learning_rate=rate)
    return dataclasses.replace(config, optimizer=optimizer, model_options=options, augmentation=Augmentation())
"""


def draws(space: Any, count: int) -> list[tuple[keras_tuner.HyperParameters, TrainConfig]]:
    """Random draws, as KerasTuner's oracles make them: only hyperparameters that are active have values."""
    drawn, known = [], keras_tuner.HyperParameters()
    seen: set[str] = set()
    rng = np.random.default_rng(0)
    for _ in range(count):
        hp = keras_tuner.HyperParameters()
        for entry in known.space:
            hp.merge([entry])
            if hp.is_active(entry):
                hp.values[entry.name] = entry.random_sample(int(rng.integers(2**31)))
        drawn.append((hp, draw(space, hp)))
        for entry in hp.space:
            if entry.name not in seen:
                seen.add(entry.name)
                known.merge([entry])
    return drawn


@pytest.mark.parametrize(
    "count",
    [250, pytest.param(1000, marks=pytest.mark.slow)],  # 1000: 3 s each
)
@pytest.mark.parametrize("name", SPACES)
def test_every_draw_is_a_config(name: str, count: int) -> None:
    drawn = draws(SPACES[name], count)
    values = [tuple(sorted((k, str(v)) for k, v in hp.values.items())) for hp, _ in drawn]
    assert len(set(values)) > 0.9 * count
    for _, config in drawn:
        assert config_from_json(config.to_json()) == config
        assert config.epochs == drawn[0][1].epochs


def test_conditional_choices_open_others() -> None:
    drawn = draws(SPACES["digits"], 300)
    for hp, config in drawn:
        squeezed = hp.get("squeeze_excitation")
        assert ("se_ratio" in config.model_options) == squeezed
        assert config.model_options["shortcut"] in ("A", "B", "D")


@pytest.mark.parametrize(("name", "size", "channels"), [("digits", 8, 1), ("cifar10", 32, 3)])
def test_a_sample_of_draws_trains_a_step(name: str, size: int, channels: int) -> None:
    source = small_source(size, channels)
    for _, config in draws(SPACES[name], 40)[::10]:
        network = network_of(config, source, image_format_for(config, source))
        images = np.random.default_rng(0).integers(0, 256, (4, size, size, channels)).astype("float32")
        with tf.GradientTape() as tape:
            answer = network(images, training=True)
            loss = -tf.reduce_mean(tf.math.log(answer[:, 0] + 1e-9))
        gradients = tape.gradient(loss, network.trainable_variables)
        assert all(g is not None and np.isfinite(np.asarray(g)).all() for g in gradients)


def small_source(size: int, channels: int) -> Source:
    split = ArraySplit(np.zeros((20, size, size, channels), "uint8") + 7, np.arange(20) % 10)
    return Source("small", tuple("0123456789"), channels, (size, size), split, split)


def test_costs_are_those_of_the_network_without_building_it() -> None:
    source = small_source(32, 3)
    for _, config in draws(SPACES["cifar10"], 12)[::4]:
        cost = count(config, source)
        real = complexity(network_of(config, source, image_format_for(config, source)))
        assert (cost.parameters, cost.macs) == (real.trainable_parameters, real.macs)
        assert cost.memory_gb > 0


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (Bounds(max_parameters=99), "refused: 100 parameters, more than max_parameters 99"),
        (Bounds(max_macs=1e6), "refused: 2,000,000 multiply-adds, more than max_macs 1,000,000"),
        (Bounds(max_memory_gb=0.5), "refused: 1.5 GB of memory"),
        (Bounds(max_latency_ms=3), "refused: 4.5 ms an image"),
        (Bounds(100, 2e6, 1.5, 4.5), None),
        (Bounds(), None),
    ],
)
def test_bounds(bounds: Bounds, words: str | None) -> None:
    why = refusal(Cost(100, 2_000_000, 1.5, 4.5), bounds)
    assert why is None if words is None else why is not None and words in why


@pytest.mark.slow
def test_latency_is_measured_on_the_export(tmp_path: Path, data_dir: str) -> None:
    config = dataclasses.replace(recipe("digits"), data_dir=data_dir, model_options=TINY_NET, validation=0.1)
    (tmp_path / "config.json").write_text(config.to_json())
    assert 0 < latency_of(tmp_path / "config.json") < 1000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def space(hp:\n    pass", r"bad.py:1: SyntaxError"),
        ("import no_such_module", r"bad.py:1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\n\ny = 1 / 0", r"bad.py:3: ZeroDivisionError"),
        ("x = 1", r"has no function space\(hp\)"),
        ("def space(hp):\n    return 3", r"bad.py:1: space\(hp\) must return a TrainConfig, not 3"),
        ("def space(hp):\n    x = 1\n    return hp.Chioce('a', [1])", r"bad.py:3: AttributeError"),
        (
            "from resnet_keras.config.train import TrainConfig\ndef space(hp):\n    return TrainConfig(epochs=-1)",
            r"bad.py:3: UsageError: epochs must be at least 1, or 0 for as many as the images call for, not -1",
        ),
    ],
)
def test_a_space_file_with_an_error_is_reported_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        draw(find_space(str(path))[1], keras_tuner.HyperParameters())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digitz", "--trials", "1"], "unknown space 'digitz'; choose from digits, cifar10, folder, imagenet"),
        (["no/such/file.py", "--trials", "1"], "there is no space file no/such/file.py"),
        (["digits"], "give --trials or --budget"),
        (["digits", "--trials", "0"], "trials must be at least 1"),
        (["digits", "--trials", "1", "--tuner", "magic"], "unknown tuner 'magic'; choose from random, bayesian"),
        (
            ["digits", "--trials", "1", "--objective", "speed"],
            "unknown objective 'speed'; choose from val_accuracy, val",
        ),
        (["digits", "--budget", "5 minutes"], "budget must be a time such as 90s, 5m, 8h or 2d, not '5 minutes'"),
        (["digits", "--budget", "0m"], "budget must be a time"),
        (["digits", "--trials", "1", "--role", "king"], "unknown role 'king'; choose from alone, chief, worker"),
        (["digits", "--trials", "1", "--validation", "1"], "validation must be a share above 0 and below 1"),
        (["digits", "--trials", "1", "--role", "chief", "--address", "x"], "address must be HOST:PORT"),
        (["digits", "--trials", "1", "--no-such-flag", "3"], "no-such-flag"),
        (["digits", "--trials", "1", "--run-dir", "a", "--output=b"], "--output is the old name of --run-dir"),
    ],
)
def test_wrong_words(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tune", *words]) == 2
    assert list(tmp_path.iterdir()) == []
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_budgets() -> None:
    assert [seconds_of(text) for text in ("90s", "5m", "1.5h", "2d", None)] == [90, 300, 5400, 172800, None]


def test_time_is_kept_for_the_best_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that takes longer than the recipe, and is the best, takes longer in full too."""
    search: Any = SimpleNamespace(folder=tmp_path, epochs=4, settings=SearchConfig("digits", validation=0.2))
    results = Results(search, retrain=2)
    (tmp_path / "baseline").mkdir()
    (tmp_path / "baseline" / "outcome.json").write_text('{"accuracy": 0.5, "loss": 1.0, "seconds": 8.0}')
    rows: list[TrialRow] = []
    monkeypatch.setattr(Results, "rows", lambda self: rows)
    assert results.last_moment(None) is None
    assert results.last_moment(100.0) == 100 - 2 * 8 / 0.8
    rows.append(TrialRow("0", {}, 0.9, {"seconds": 6.0, "epochs": 2}, None, []))
    assert results.last_moment(100.0) == 100 - 2 * 12 / 0.8


def test_pareto_front() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (2.0, 0.8), (4.0, 0.9), (1.0, 0.3)]
    assert front(points, True) == [(1.0, 0.5), (2.0, 0.8), (3.0, 0.9)]
    assert front(points, False) == [(1.0, 0.3)]
    assert mean_and_deviation([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert mean_and_deviation([1.0]) == (1.0, 0.0)
    rows = [TrialRow(str(i), {"a": i, "b": 1}, 0.0, {}, None, []) for i in range(2)]
    assert varying_of(rows) == ["a"]


def oracle_in(folder: Path, tuner: str = "random", trials: int = 3) -> Any:
    objective = keras_tuner.Objective("val_accuracy", "max")
    oracle = make_oracle(tuner, objective, max_trials=trials, epochs=4, seed=1)
    oracle.verbose = 0
    oracle._set_project_dir(str(folder), "search")
    hp = keras_tuner.HyperParameters()
    hp.Float("rate", 0.0, 1.0)
    oracle.update_space(hp)
    return oracle


def end(oracle: Any, trial: Any, score: float = 0.5) -> None:
    oracle.update_trial(trial.trial_id, {"val_accuracy": score})
    trial.status = Status.COMPLETED
    oracle.end_trial(trial)


@pytest.mark.parametrize("tuner", oracles.TUNERS)
def test_an_oracle_that_is_killed_loses_and_repeats_nothing(tmp_path: Path, tuner: str) -> None:
    oracle = oracle_in(tmp_path, tuner)
    first = oracle.create_trial("a")
    end(oracle, first)
    second = oracle.create_trial("a")
    for torn in ("before", "after"):
        if torn == "after":  # the trial's file says that it is done, the oracle's does not
            saved = (tmp_path / "search" / "oracle.json").read_text()
            end(oracle, second)
            (tmp_path / "search" / "oracle.json").write_text(saved)
        again = oracle_in(tmp_path, tuner)
        again.reload()
        assert again.trials[first.trial_id].status == Status.COMPLETED
        third = again.create_trial("a")
        if torn == "before":
            assert third.trial_id == second.trial_id
            assert third.hyperparameters.values == second.hyperparameters.values
            oracle, second = again, third
        else:
            assert third.trial_id not in (first.trial_id, second.trial_id)
            assert again.end_order == [first.trial_id, second.trial_id]


def test_a_dead_workers_trial_is_given_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = oracle_in(tmp_path, trials=2)
    lost, mine = oracle.create_trial("dead"), oracle.create_trial("alive")
    end(oracle, mine)
    assert oracle.create_trial("alive").status == Status.IDLE  # its trial could still come back
    monkeypatch.setattr(oracles, "SILENT_SECONDS", 0.0)
    time.sleep(0.01)
    again = oracle.create_trial("alive")
    assert (again.trial_id, again.status) == (lost.trial_id, Status.RUNNING)
    late = oracle.trials[lost.trial_id]
    monkeypatch.setattr(oracles, "SILENT_SECONDS", 60.0)
    end(oracle, late)
    assert oracle.create_trial("alive").status == Status.STOPPED
    assert oracle.end_order == [mine.trial_id, lost.trial_id]
    end(oracle, late)  # the one that was taken for dead reports too
    assert oracle.end_order == [mine.trial_id, lost.trial_id]


def test_nothing_is_begun_after_the_deadline(tmp_path: Path) -> None:
    oracle = oracle_in(tmp_path)
    oracle.deadline = time.monotonic() - 1
    assert oracle.create_trial("a").status == Status.STOPPED


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.py"
    path.write_text(SMALL % 2)
    return path


def flags(space: Path, folder: Path, data_dir: str, *more: str) -> list[str]:
    words = [str(space), "--run-dir", str(folder), "--data-dir", data_dir, "--trials", "3", "--validation", "0.2"]
    return [*words, *more]


def start(words: list[str], code: str = "") -> "subprocess.Popen[str]":
    """The program in a process of its own; `code` runs there first."""
    program = ["-m", "tuning"]
    if code:
        program = [
            "-c",
            f"{code}\nimport sys; from resnet_keras.cli.main import main; sys.exit(main(sys.argv[1:]))",
            "tune",
        ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *program, *words], stdout=pipe, stderr=pipe, text=True, env=environment)


def train_words(command: list[str]) -> list[str]:
    """The words of a training that a search starts."""
    assert (command[1], command[3], command[4]) == ("-c", str(os.getpid()), "train")
    return command[4:]


class InProcess:
    """Takes the place of `subprocess.Popen` for the trainings of a search: the same program, here and at once."""

    def __init__(self, command: list[str], stdout: Any, stderr: Any, process_group: int) -> None:
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(os.fdopen(os.dup(stdout.fileno()), "a"))
            stack.enter_context(contextlib.redirect_stdout(log))
            stack.enter_context(contextlib.redirect_stderr(log))
            self.code = main(train_words(command))

    def wait(self, timeout: float | None) -> int:
        return self.code


class Forked:
    """The same in a process that costs no imports."""

    def __init__(self, commands: Server, command: list[str]) -> None:
        self.command: Command = commands.start(train_words(command))

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (240 if timeout is None else timeout)
        while self.command.running:
            if time.monotonic() >= end:
                raise subprocess.TimeoutExpired("train", timeout or 240)
            time.sleep(0.01)
        return self.command.finish()[0]

    def send_signal(self, number: int) -> None:
        self.command.send(number)


def replace_popen(monkeypatch: pytest.MonkeyPatch, popen: Any) -> None:
    stand_in = SimpleNamespace(Popen=popen, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(tuning_module("runs"), "subprocess", stand_in)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of the searches of this process are no processes; `test_a_search_is_killed...` has real ones."""
    replace_popen(monkeypatch, InProcess)
    monkeypatch.setattr(reporters, "all_reporters", lambda quiet: [reporters.ModelFiles])


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch, commands: Server) -> None:
    """Those trainings are forks; `test_a_search_is_killed...` has real processes."""
    replace_popen(monkeypatch, lambda command, **_: Forked(commands, command))


@pytest.mark.slow
def test_a_search_is_killed_and_resumed(
    tmp_path: Path,
    space_file: Path,
    data_dir: str,
    commands: Server,
    in_process: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The search that is killed is a process whose trainings are processes; the one before and the last run here."""
    space_file.write_text(SMALL % 6)
    output = tmp_path / "search"
    words = flags(space_file, output, data_dir)
    assert main(["tune", *words, "--trials", "1", "--retrain", "0"]) == 0
    first = (output / "trial_0" / "run" / "metrics.json").stat().st_mtime_ns
    capsys.readouterr()
    search = commands.start(["tune", *words])
    second = output / "trial_1" / "run" / "metrics.csv"
    while not second.exists() or len(second.read_text().splitlines()) < 2:
        assert search.running, search.finish()
        time.sleep(0.02)
    assert main(["tune", *words]) == 2  # two in one folder failed each other's trials
    assert f"another process searches in {output}; wait for it" in capsys.readouterr().err
    search.send(signal.SIGKILL)
    assert search.finish()[0] == -signal.SIGKILL
    time.sleep(0.5)
    rows = len(second.read_text().splitlines())
    assert rows < 7
    time.sleep(1.5)
    assert len(second.read_text().splitlines()) == rows, "the killed search left a training behind"
    assert main(["tune", *words, "--seed", "5"]) == 2
    assert "holds a search with seed 0, now 5" in capsys.readouterr().err
    assert main(["tune", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["trials"], found["failed"], found["test_runs"]) == (3, 0, 1)
    assert sorted(path.name for path in output.glob("trial_*")) == ["trial_0", "trial_1", "trial_2"]
    assert (output / "trial_0" / "run" / "metrics.json").stat().st_mtime_ns == first
    best = config_from_json((output / "best.json").read_text())
    assert (best.validation, best.run_dir, best.epochs, best.name) == (0.0, None, 6, "small-tuned")
    page = (output / "report.html").read_text()
    for words_ in ("Hyperparameters and score", "Learning curves", "Trials", "<script>", "data:image/png"):
        assert words_ in page
    final = json.loads((output / "final" / "seed_0" / "run" / "metrics.json").read_text())
    assert (final["examples"], final["accuracy"]) == (360, pytest.approx(found["test_accuracy"], abs=1e-4))


def test_a_seed_proposes_the_same_trials_again() -> None:
    def proposed(seed: int) -> list[float]:
        objective = keras_tuner.Objective("val_accuracy", "max")
        oracle, space = (
            make_oracle("random", objective, max_trials=3, epochs=2, seed=seed),
            keras_tuner.HyperParameters(),
        )
        space.Float("rate", 0.0, 1.0)
        oracle.update_space(space)
        return [oracle.populate_space(str(i))["values"]["rate"] for i in range(3)]

    assert proposed(0) == proposed(0) != proposed(1)


def test_failing_trials_do_not_end_a_search(
    tmp_path: Path, space_file: Path, data_dir: str, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (SMALL % 1).replace("rate = hp.Float", "rate = 1e9 if hp.Boolean('wild') else hp.Float")
    space_file.write_text(text.replace("return data", 'hp.values.get("wild") and hp.Int("x", 0, 1)\n    return data'))
    folder = tmp_path / "search"
    words = flags(space_file, folder, data_dir, "--retrain", "0", "--json", "--max-parameters", "9000")
    words[words.index("--run-dir")] = "--output"  # its old name
    assert main(["tune", *words, "--trials", "6"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trials"] == 6
    failures = [path.read_text() for path in folder.glob("trial_*/failure.txt")]
    assert len(failures) == found["failed"] > 0
    assert all("no number" in text or "more than max_parameters" in text for text in failures), failures
    for torn in (folder / "trial_0" / "trial.json", folder / "oracle.json"):
        before = torn.read_text()
        torn.write_text(before[: len(before) // 2])
        assert main(["tune", *words, "--trials", "6"]) == 2
        assert f"{torn} cannot be read" in " ".join(capsys.readouterr().err.split())
        torn.write_text(before)
    words[words.index("9000")] = "9"
    words[words.index(str(folder))] = f"{folder}-of-nothing"
    assert main(["tune", *words, "--trials", "2"]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["failed"] == 2
    assert "all 2 trials failed, the report says why" in said.err


@pytest.mark.slow
def test_a_training_that_fails_says_why(tmp_path: Path, data_dir: str, in_process: None) -> None:
    config = dataclasses.replace(recipe("digits"), data_dir=data_dir, model_options=TINY_NET, batch_size=2000)
    with pytest.raises(RunError, match="^batch_size 2000 is larger than"):
        run(config, tmp_path / "trial")


@pytest.mark.slow
def test_a_chief_and_two_workers_one_of_which_dies(tmp_path: Path, space_file: Path, data_dir: str) -> None:
    output, port = tmp_path / "search", free_ports()[0]
    space_file.write_text(SMALL % 6)
    words = flags(space_file, output, data_dir, "--address", f"127.0.0.1:{port}", "--retrain", "0", "--trials", "5")
    hurried = "from resnet_keras.cli.tune import tuning_module; o = tuning_module('oracles')\n"
    hurried += "o.SILENT_SECONDS = 8.0; o.BEAT_SECONDS = 0.5"
    chief = start([*words, "--role", "chief", "--json"], hurried)
    workers = [start([*words, "--role", "worker", "--id", str(number)], hurried) for number in range(2)]
    while len(list(output.glob("trial_*/run/metrics.csv"))) < 2:
        assert chief.poll() is None, chief.communicate()
        time.sleep(0.05)
    workers[0].kill()
    workers[0].communicate()
    said, error = chief.communicate(timeout=300)
    assert chief.returncode == 0, error
    found = json.loads(said)
    assert (found["trials"], found["failed"]) == (5, 0)
    assert len(list(output.glob("trial_*/run/metrics.json"))) == 5
    _, error = workers[1].communicate(timeout=60)
    assert workers[1].returncode == 0, error


def test_a_worker_goes_on_showing_that_it_lives_when_its_chief_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    oracles, beats = tuning_module("oracles"), []

    class Away:
        def create_trial(self, worker: str) -> None:
            beats.append(worker)
            if len(beats) == 1:
                raise grpc.RpcError("Connection reset by peer")

    monkeypatch.setattr(oracles, "BEAT_SECONDS", 0.01)
    with oracles.Heartbeat(Away(), "worker-0"):
        end = time.monotonic() + 10
        while len(beats) < 3 and time.monotonic() < end:
            time.sleep(0.01)
    assert len(beats) >= 3


def test_hyperparameters_are_sent_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """KerasTuner prints the values of each condition, on the standard output that --json has for its own."""
    for name in ("KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID"):
        monkeypatch.setenv(name, "")  # so that it is put back
    tuning_module("search").set_role("chief", "0", "127.0.0.1:8299")
    hp = keras_tuner.HyperParameters()
    hp.Choice("norm", ["batch", "group"])
    with hp.conditional_scope("norm", ["batch"]):
        hp.Float("momentum", 0.9, 0.99)
    assert len(hp.to_proto().space.float_space) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.guides  # 11 s
def test_hyper_model_in_a_script_of_ones_own(
    tmp_path: Path, space_file: Path, data_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_module("hypermodel"), "all_reporters", lambda quiet: [reporters.ModelFiles])
    space = find_space(str(space_file))[1]
    hypermodel = ResNetHyperModel(space, validation=0.2, data_dir=data_dir)
    objective = keras_tuner.Objective("val_accuracy", "max")
    tuner = keras_tuner.RandomSearch(
        hypermodel, objective=objective, max_trials=2, directory=str(tmp_path), project_name="own"
    )
    tuner.search(verbose=0)
    best = tuner.oracle.get_best_trials(1)[0]
    model = tuner.get_best_models(1)[0]
    source = hold_out(open_source("digits", data_dir), 0.2)
    scores = model.predict(source.validation.images.astype("float32"), verbose=0)  # type: ignore[union-attr]
    accuracy = float((scores.argmax(-1) == source.validation.targets).mean())  # type: ignore[union-attr]
    assert accuracy == pytest.approx(best.score, abs=0.01)
    assert best.score > 0.2
    again = keras_tuner.Hyperband(
        hypermodel, objective=objective, max_epochs=2, directory=str(tmp_path), project_name="data"
    )
    x, y = source.validation.images, source.validation.targets  # type: ignore[union-attr]
    with pytest.raises(FatalTypeError, match=r"search\(\) takes no x, y, validation_split: the data, and how"):
        again.search(x, y, validation_split=0.2)  # which trained on digits, whatever they were


def test_a_stopped_search_says_how_to_resume_it(
    tmp_path: Path, space_file: Path, data_dir: str, capsys: pytest.CaptureFixture[str], forked: None
) -> None:
    """SIGTERM to this process while a trial, which is a process, runs."""
    space_file.write_text(SMALL % 2000)
    folder = tmp_path / "search"

    def terminate() -> None:
        end = time.monotonic() + 120
        while not (folder / "trial_0" / "run" / "metrics.csv").exists():
            if time.monotonic() > end:
                return
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    assert main(["tune", *flags(space_file, folder, data_dir)]) == 130
    thread.join()
    assert capsys.readouterr().err == "resnet-keras: interrupted; the same command resumes the search\n"
    assert list((folder / "trial_0" / "run" / "checkpoints").glob("*"))


@pytest.mark.slow
def test_a_budget_ends_a_search(tmp_path: Path, space_file: Path, data_dir: str) -> None:
    space_file.write_text(SMALL % 2000)
    process = start(flags(space_file, tmp_path / "search", data_dir, "--budget", "25s", "--retrain", "0"))
    said, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert "the time is up" in said
