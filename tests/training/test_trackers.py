"""Experiment trackers, read back by their own clients."""

import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import Any

import keras
import pytest

from resnet_keras.config.table import read_table
from resnet_keras.config.train import TrainConfig
from resnet_keras.errors import UsageError
from resnet_keras.training.reporters import ModelFiles, Report
from resnet_keras.training.trackers import tracker
from resnet_keras.training.trainer import run


def test_no_tracker_and_unknown_ones() -> None:
    assert tracker("none") == []
    with pytest.raises(UsageError, match="tracker"):
        tracker("mlfow")


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="MLflow is installed")
def test_a_tracker_that_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match=r"needs mlflow: pip install 'resnet-keras\[mlflow\]'"):
        tracker("mlflow")


@pytest.mark.interop
@pytest.mark.filterwarnings("default")
def test_mlflow_has_the_run(tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that died in its second epoch, and was resumed.

    MLflow 3.17 wants an older pyarrow than the constraints have: install it in an environment of its own.
    """
    mlflow: Any = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    config = dataclasses.replace(tiny, run_dir=str(tmp_path / "run"))
    reporters = [ModelFiles, Report, *tracker("mlflow")]

    class Dies(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                raise SystemExit

    with pytest.raises(SystemExit):
        run(config, reporters=reporters, callbacks=[Dies()])
    mlflow.end_run("FAILED")  # as MLflow does when a process ends
    result = run(config, reporters=reporters)

    client = mlflow.MlflowClient()
    (found,) = client.search_runs(["0"])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    mlflow.flush_async_logging()
    losses = [(one.step, one.value) for one in client.get_metric_history(found.info.run_id, "val_loss")]
    assert losses == [(i, pytest.approx(row["val_loss"])) for i, row in enumerate(read_table(result.run_dir))]
    assert found.data.metrics["final_accuracy"] == result.metrics["accuracy"]
    assert found.data.params["optimizer_name"] == "sgd"
    names = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert {"config.json", "metrics.json", "metrics.csv", "report.html", "model.keras"} <= names
    there = client.download_artifacts(found.info.run_id, "config.json", os.fspath(tmp_path))
    assert Path(there).read_text() == (result.run_dir / "config.json").read_text()


@pytest.mark.interop
@pytest.mark.filterwarnings("default")
def test_weights_and_biases_takes_the_run(tiny: TrainConfig, tmp_path: Path) -> None:
    wandb: Any = pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    from wandb.integration.keras import WandbMetricsLogger  # pyright: ignore[reportMissingImports]

    config = dataclasses.replace(tiny, run_dir=str(tmp_path / "run"))
    with wandb.init(mode="offline", dir=str(tmp_path), config=dataclasses.asdict(config)) as logged:
        result = run(config, callbacks=[WandbMetricsLogger()])
        summary = {name: logged.summary.get(f"epoch/{name}") for name in ("loss", "val_loss", "val_accuracy")}
    assert logged.config["optimizer"]["algorithm"] == "sgd"
    row = read_table(result.run_dir)[-1]
    assert summary == {name: pytest.approx(row[name]) for name in summary}
