"""A run that is stopped, by whatever and whenever, ends as if it had never been stopped: to the last bit, on CPU."""

import csv
import dataclasses
import json
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from forked import Server
from hypothesis import given, settings
from hypothesis import strategies as st

import resnet_keras as rk
from resnet_keras.cli.main import main
from resnet_keras.config.train import TrainConfig, differences
from resnet_keras.errors import UsageError
from resnet_keras.training.checkpoints import checkpoints, newest_checkpoint, read_checkpoint, save_checkpoint
from resnet_keras.training.devices import make_strategy
from resnet_keras.training.setup import make_setup
from resnet_keras.training.signals import StopSignals
from resnet_keras.training.trainer import run

# Everything that has a state of its own: what is dropped, mixed, averaged, in parts, and a checkpoint within an epoch.
FLAGS = {
    "--epochs": "4",
    "--batch-size": "128",
    "--checkpoint-steps": "3",
    "--model-options": "blocks 1,1,1 widths 4,4,8 stem_width 4 stochastic_depth 0.2 dropout 0.1",
    "--ema": "0.99",
    "--mixup": "0.2",
    "--cutmix": "1.0",
    "--accumulation": "2",
    "--precise-bn": "200",
    "--validation": "0.2",
}


def words_of(folder: Path, data_dir: str, *more: str) -> list[str]:
    flags = [word for flag, values in FLAGS.items() for word in (flag, *values.split())]
    return [
        "train",
        "digits",
        *flags,
        "--quiet",
        "--run-dir",
        str(folder),
        "--data-dir",
        data_dir,
        *more,
    ]


def run_to_its_end(commands: Server, folder: Path, data_dir: str) -> None:
    code, said = commands.start(words_of(folder, data_dir)).finish()
    assert code == 0, said


def stop_after(
    commands: Server, folder: Path, data_dir: str, step: int, number: int, delay: float = 0.0
) -> tuple[int, str]:
    """Start the run and send it a signal some time after the checkpoint of a step, or a later one, is there."""
    command = commands.start(words_of(folder, data_dir))
    while command.running:
        newest = checkpoints(folder)[:1]
        if newest and int(newest[0].stem.split("-")[1]) >= step:
            time.sleep(delay)
            command.send(number)
            break
        time.sleep(0.01)
    return command.finish()


def end_of(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray], list[dict[str, str]], dict[str, Any]]:
    """Weights, those of the best epoch, the table and the metrics of a run, without its times."""
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    metrics = json.loads((folder / "metrics.json").read_text())
    weights = rk.load_model(folder).get_weights()
    best = rk.load_model(folder / "checkpoints" / "best.keras").get_weights()
    untimed = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    return weights, best, untimed, {k: v for k, v in metrics.items() if k not in ("seconds", "date")}


def assert_same_end(one: Path, other: Path) -> None:
    first, second = end_of(one), end_of(other)
    for ours, theirs in zip(first[:2], second[:2], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    assert first[2:] == second[2:]


@pytest.fixture(scope="module")
def whole(commands: Server, tmp_path_factory: pytest.TempPathFactory, data_dir: str) -> Path:
    """The run, never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_to_its_end(commands, folder, data_dir)
    return folder


def test_killed_and_interrupted_it_ends_the_same(commands: Server, whole: Path, tmp_path: Path, data_dir: str) -> None:
    """Killed within the first epoch, asked to stop in the second, killed at the end of it, which is tested and written
    just then, and interrupted in the third."""
    folder = tmp_path / "run"
    assert stop_after(commands, folder, data_dir, 6, signal.SIGKILL, 0.05)[0] == -signal.SIGKILL
    assert not (folder / "metrics.json").exists()
    assert_says_how_to_resume(folder, *stop_after(commands, folder, data_dir, 15, signal.SIGTERM))
    assert not (folder / "metrics.json").exists()
    assert stop_after(commands, folder, data_dir, 21, signal.SIGKILL, 0.2)[0] == -signal.SIGKILL
    # The newest checkpoint is damaged besides: the one before it counts.
    newest = checkpoints(folder)[0]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    assert_says_how_to_resume(folder, *stop_after(commands, folder, data_dir, 30, signal.SIGINT))
    assert json.loads((folder / "metrics.json").read_text())["interrupted"]
    assert rk.evaluate(folder, data_dir=data_dir).examples == 360
    run_to_its_end(commands, folder, data_dir)
    assert_same_end(whole, folder)


def assert_says_how_to_resume(folder: Path, code: int, said: str) -> None:
    assert code == 130, said
    assert said.splitlines()[-1].endswith(f"the run is saved in {folder}; resnet-keras train {folder} resumes it")
    assert "Traceback" not in said


COUNTED = """
import json, os, signal, sys

import keras
from resnet_keras.config.stored import config_from_json
from resnet_keras.training.trainer import run

last = int(sys.argv[2])


class Counting(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.batches, self.epochs, self.seen = 0, 0, []

    def on_train_batch_end(self, batch, logs=None):
        assert set(logs) == {"loss", "accuracy"}
        self.batches += 1
        if self.batches == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        self.seen.append([epoch, logs["val_loss"]])


counting = Counting()
run(config_from_json(sys.argv[1]), callbacks=[counting])
print(json.dumps([counting.batches, counting.epochs, counting.seen]))
"""


@pytest.mark.slow
def test_killed_with_adamw_and_a_callback_nothing_is_counted_twice(
    commands: Server, tiny: TrainConfig, tmp_path: Path
) -> None:
    """A Keras optimizer and a callback of the user's are as the last checkpoint has them."""
    adamw = dataclasses.replace(tiny.optimizer, algorithm="adamw", learning_rate=2e-3, weight_decay=0.05)
    config = dataclasses.replace(tiny, optimizer=adamw, epochs=2, checkpoint_steps=5, run_dir=str(tmp_path / "killed"))
    whole = dataclasses.replace(config, run_dir=str(tmp_path / "whole"))
    code, said = commands.start(["-c", COUNTED, whole.to_json(), "0"]).finish()
    assert code == 0, said
    batches, epochs, seen = json.loads(said.splitlines()[-1])
    steps = batches // 2
    assert (epochs, [epoch for epoch, _ in seen]) == (2, [0, 1])
    for last in (steps - 2, steps + 3):  # between two checkpoints of each epoch
        assert commands.start(["-c", COUNTED, config.to_json(), str(last)]).finish()[0] == -signal.SIGKILL
    code, said = commands.start(["-c", COUNTED, config.to_json(), "0"]).finish()
    assert code == 0, said
    assert json.loads(said.splitlines()[-1]) == [2 * steps, 2, seen]
    one, other = (read_checkpoint(checkpoints(tmp_path / name)[0]).arrays for name in ("killed", "whole"))
    assert one.keys() == other.keys()
    assert any(name.startswith("momentum:") for name in one)
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], name)


@pytest.mark.slow
def test_twenty_kills(commands: Server, whole: Path, tmp_path: Path, data_dir: str) -> None:
    folder, drawn, kills = tmp_path / "run", random.Random(0), 0
    while kills < 20:
        # Some before the first checkpoint, some far on; the last steps are left for the end.
        there = checkpoints(folder)[:1]
        step = int(there[0].stem.split("-")[1]) if there else 0
        ahead = drawn.choice([0, 0, 3]) if step < 38 else 0
        code, _ = stop_after(commands, folder, data_dir, min(step + ahead, 41), signal.SIGKILL, drawn.uniform(0, 0.4))
        if code == -signal.SIGKILL:
            kills += 1
        else:  # it came to its end before: begin a new one
            assert_same_end(whole, folder)
            folder = tmp_path / f"run-{kills}"
    run_to_its_end(commands, folder, data_dir)
    assert_same_end(whole, folder)


def test_a_finished_run_is_read_and_a_changed_config_refused(
    whole: Path, data_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (whole / "metrics.csv").read_bytes(), (whole / "model.keras").stat().st_mtime_ns
    assert main(words_of(whole, data_dir, "--json")) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["accuracy"] == json.loads((whole / "metrics.json").read_text())["accuracy"]
    assert main(words_of(whole, data_dir, "--learning-rate", "0.2", "--epochs", "5")) == 2
    refusal = capsys.readouterr().err
    assert "is a run of another config: " in refusal
    assert "learning_rate was 0.1, now 0.2" in refusal
    assert "epochs was 4, now 5" in refusal
    assert len(refusal.splitlines()) == 1
    assert before == ((whole / "metrics.csv").read_bytes(), (whole / "model.keras").stat().st_mtime_ns)


def test_only_what_changes_the_result_is_compared() -> None:
    config = TrainConfig()
    assert not differences(config, dataclasses.replace(config, run_dir="x", checkpoint_steps=7, data_dir="y"))
    other = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, momentum=0.5), seed=3)
    assert differences(config, other) == {"momentum": (0.9, 0.5), "seed": (0, 3)}


def test_a_folder_in_use_is_refused(tiny: TrainConfig, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process trains in"):
            run(dataclasses.replace(tiny, run_dir=str(tmp_path / "run")))


ARRAYS = {"variable:a": np.arange(12.0).reshape(3, 4)}


def write(folder: Path, step: int, keep: int = 9) -> Path:
    return save_checkpoint(folder, step, {**ARRAYS, "step": np.array(step)}, {"rows": [step]}, keep)


def test_the_newest_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) == (None, {})
    for step in (5, 10, 100, 15):
        write(tmp_path, step, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000100.npz", "step-000000015.npz"]
    found, damaged = newest_checkpoint(tmp_path)
    assert found
    assert not damaged
    assert found.notes == {"rows": [100]}
    np.testing.assert_array_equal(found.arrays["variable:a"], ARRAYS["variable:a"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:100],
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"\0" * len(data),
        lambda data: data[: len(data) // 2] + b"\0" * (len(data) - len(data) // 2),
    ],
)
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    write(tmp_path, 5)
    newest = write(tmp_path, 10)
    newest.write_bytes(damage(newest.read_bytes()))
    found, damaged = newest_checkpoint(tmp_path)
    assert found
    assert found.notes == {"rows": [5]}
    assert list(damaged) == [newest]
    assert all(damaged.values())


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_is_found_or_means_nothing(
    tmp_path_factory: pytest.TempPathFactory, place: float, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    path = write(folder, 5)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= flip
    path.write_bytes(bytes(data))
    found, damaged = newest_checkpoint(folder)
    if found:
        assert found.notes == {"rows": [5]}
        np.testing.assert_array_equal(found.arrays["variable:a"], ARRAYS["variable:a"])
    else:
        assert damaged


def test_nothing_is_left_of_a_checkpoint_that_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 5)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, 10)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000005.npz"]


def test_a_checkpoint_of_another_network_is_refused_whole(tiny: TrainConfig) -> None:
    state = make_setup(tiny, make_strategy("none")).state
    arrays = state.arrays()
    changed = {**arrays, "variable:logits/kernel": np.zeros((3, 3)), "step": np.int64(5)}
    with pytest.raises(UsageError, match="is of another network, optimizer or version: it has no variable:logits"):
        state.load(changed)
    assert state.arrays()["step"] == 0


def poisoned(quick: TrainConfig, folder: Path) -> TrainConfig:
    """A run whose rate is too high for it, without a norm that would bear it."""
    options = {"convolutions": "1,1,1,1,1", "widths": "4,4,8,8,8", "hidden": 16, "dropout": 0.0}
    return dataclasses.replace(
        quick,
        model="vgg11",
        image_size=32,
        model_options=options,
        optimizer=dataclasses.replace(quick.optimizer, learning_rate=30.0, momentum=0.5),
        schedule=dataclasses.replace(quick.schedule, decay="constant", warmup=0.9),
        run_dir=str(folder),
        checkpoint_steps=1,
        keep_checkpoints=9,
        epochs=1,
    )


def test_a_bad_loss_stops_with_step_rate_and_checkpoint(quick: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        run(poisoned(quick, tmp_path / "run"))
    message = str(error.value)
    assert "no number at step" in message
    assert "learning rate" in message
    newest = read_checkpoint(checkpoints(tmp_path / "run")[0])
    assert str(newest.path) in message
    for name, value in newest.arrays.items():
        assert np.isfinite(value).all(), name


def test_a_bad_loss_rolls_back_to_half_the_rate(
    quick: TrainConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = run(dataclasses.replace(poisoned(quick, tmp_path / "run"), on_nan="rollback"), quiet=False)
    assert "at half the learning rate" in capfd.readouterr().err
    assert np.isfinite(result.metrics["loss"])
    assert read_checkpoint(checkpoints(tmp_path / "run")[0]).arrays["rate_scale"] < 1


class Seen(keras.callbacks.Callback):
    """The thread of a run and the handlers of signals while it trains."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.thread = threading.current_thread()
        self.handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


def test_on_another_thread_it_trains_and_leaves_signals_alone(tiny: TrainConfig, tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    seen, results = Seen(), []
    config = dataclasses.replace(tiny, epochs=1, run_dir=str(tmp_path / "run"))
    thread = threading.Thread(target=lambda: results.append(run(config, callbacks=[seen])))
    thread.start()
    thread.join()
    assert results[0].metrics["epochs"] == 1
    assert isinstance(results[0].model, keras.Model)
    assert seen.thread is thread
    assert seen.handlers == handlers
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_on_the_main_thread_it_handles_signals_and_puts_back_what_was_there(tiny: TrainConfig, tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    seen = Seen()
    run(dataclasses.replace(tiny, epochs=1, run_dir=str(tmp_path / "run")), callbacks=[seen])
    assert all(isinstance(handler, StopSignals) for handler in seen.handlers)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


@pytest.mark.slow
def test_data_that_changed_meanwhile_are_not_gone_on_with(tiny: TrainConfig, tmp_path: Path) -> None:
    """Of a folder, with an image more."""
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(8):
            image = rng.integers(0, 256, (8, 8, 3), "uint8")
            keras.utils.save_img(tmp_path / "images" / label / f"{i}.png", image, scale=False)
    data = {"data": str(tmp_path / "images"), "image_size": 8, "batch_size": 4, "run_dir": str(tmp_path / "run")}
    config = dataclasses.replace(tiny, epochs=2, checkpoint_steps=1, **data)

    def dies(batch: int, logs: Any) -> None:
        if batch == 1:
            raise SystemExit

    with pytest.raises(SystemExit):
        run(config, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=dies)])
    more = tmp_path / "images" / "a" / "more.png"
    more.write_bytes((tmp_path / "images" / "a" / "0.png").read_bytes())
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"not as they were when it stopped \(.* then and .* now\); put them back"):
        run(config)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    more.unlink()
    assert len(run(config).metrics["environment"]["data"]) > 16


@pytest.mark.parametrize(
    "text",
    [
        "",
        pytest.param('{"interrupted": fal', marks=pytest.mark.slow),
        *(pytest.param(text, marks=pytest.mark.slow) for text in ("[]", "\0\0")),
    ],
)
def test_a_torn_file_is_named_and_the_run_goes_on(
    tiny: TrainConfig, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(tiny, epochs=1, run_dir=str(tmp_path / "run"))
    first = run(config)
    (tmp_path / "run" / "metrics.json").write_text(text)
    capsys.readouterr()
    again = run(config, quiet=False)
    said = capsys.readouterr().err
    assert f"{tmp_path / 'run' / 'metrics.json'} " in said
    assert "the run resumes from its last checkpoint" in said
    assert again.metrics["accuracy"] == first.metrics["accuracy"]
    (tmp_path / "run" / "config.json").write_text(text)
    assert main(["train", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "config.json" in said
    assert "Traceback" not in said


def test_a_signal_that_is_dropped_stops_the_run_all_the_same() -> None:
    """Python ignores an exception in a finaliser; a run went on for its thousand epochs."""
    signals = StopSignals()
    with signals.at_once(alone=True), pytest.raises(KeyboardInterrupt):
        signals(signal.SIGINT, None)
    assert signals.requested
    with pytest.raises(KeyboardInterrupt), signals.at_once(alone=True):
        raise AssertionError("was entered")
