"""What is shown of a run as it goes."""

from types import SimpleNamespace
from typing import Any

import pytest

from resnet_keras.training import progress
from resnet_keras.training.progress import Progress


class Clock:
    """Stands for `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


def run_of(steps: int, monkeypatch: pytest.MonkeyPatch, epochs: int = 10) -> tuple[Progress, Any, Clock]:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    config = SimpleNamespace(epochs=epochs, batch_size=8)
    setup: Any = SimpleNamespace(
        config=config, steps_per_epoch=steps, source=SimpleNamespace(measured_name="validation")
    )
    row = {"epoch": 1, "loss": 1.0, "accuracy": 0.5, "seconds": 30.0}
    record: Any = SimpleNamespace(step=0, row=row, evaluation=None)
    shown = Progress(setup, record)
    shown.on_train_begin()
    return shown, record, clock


def test_the_time_left_does_not_count_compilation(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    shown, record, clock = run_of(20, monkeypatch)
    shown.live = True
    for step, seconds in enumerate([15.0, 0.5, 0.5, 0.5], start=1):
        record.step, clock.now = step, clock.now + seconds
        shown.on_train_batch_end(step - 1, {"loss": 1.0, "accuracy": 0.5})
    line = capsys.readouterr().err.split("\r")[-1]
    assert "16 images/s" in line  # 8 in half a second
    assert "1:38 left" in line  # 196 steps of half a second


def test_an_epoch_in_one_call_counts_whole(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    shown, record, clock = run_of(20, monkeypatch, epochs=3)
    record.step, clock.now = 20, clock.now + 10
    shown.on_train_batch_end(19, {})
    shown.on_epoch_end(0)
    assert "16 images/s, 0:20 left" in capsys.readouterr().err
