"""The table and the image of finished runs, ours and PyTorch's."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cifar_results import main, over_runs, read_run
from resnet_keras.config.recipes import recipe
from resnet_keras.training.record import COLUMNS

SHORT = replace(recipe("cifar10-resnet20-short"), epochs=3)


def run_folder(folder: Path, library: str, errors: list[Any], **changes: Any) -> str:
    """What a run leaves, with these test errors in %, and training errors one above; None where it was not tested."""
    folder.mkdir()
    (folder / "config.json").write_text(replace(SHORT, **changes).to_json())
    metrics = {"accuracy": 1 - errors[-1] / 100, "interrupted": False, "seconds": 1000.0}
    (folder / "metrics.json").write_text(json.dumps({**metrics, "environment": {library: "2"}}))
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for epoch, error in enumerate(errors, start=1):
        tested = ["", ""] if error is None else [0.5, 1 - error / 100]
        table.writerow([epoch, 0.5, 1 - ((error or 0) + 1) / 100, *tested, 0.1, 10.0])
    (folder / "metrics.csv").write_text(text.getvalue())
    return str(folder)


def test_repetitions_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        run_folder(tmp_path / "a", "tensorflow", [50, 30, 20], seed=0),
        run_folder(tmp_path / "b", "tensorflow", [52, 33, 22], seed=1),
        run_folder(tmp_path / "c", "torch", [49, 31, 21]),
        run_folder(tmp_path / "d", "torch", [49, 31, 21, 20], epochs=4),
        run_folder(tmp_path / "e", "tensorflow", [49, 31, 19], model="cifar_plain20", test_flip=True),
    ]
    assert main([*runs, "--output", str(tmp_path / "a.png")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| implementation | network | recipe | epochs | n | test error, % (95 % interval) "
        "| training error, % | seconds |",
        "|---|---|---|---:|---:|---:|---:|---:|",
        "| resnet-keras | cifar_resnet20 | cifar10-resnet20-short | 3 | 2 | 21.00 (8.29 to 33.71) | 22.00 | 1,000 |",
        "| PyTorch | cifar_resnet20 | cifar10-resnet20-short | 3 | 1 | 21.00 | 22.00 | 1,000 |",
        "| PyTorch | cifar_resnet20 | cifar10-resnet20-short | 4 | 1 | 20.00 | 21.00 | 1,000 |",
        "| resnet-keras | cifar_plain20 | cifar10-resnet20-short, two views tested | 3 | 1 | 19.00 | 20.00 | 1,000 |",
    ]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_epochs_that_one_run_did_not_test_are_left_out(tmp_path: Path) -> None:
    one = run_folder(tmp_path / "a", "tensorflow", [50, 30, 20])
    other = run_folder(tmp_path / "b", "tensorflow", [40, None, 22], seed=1)
    epochs, columns = over_runs([read_run(Path(one)), read_run(Path(other))], "val_accuracy")
    assert epochs == [1, 3]
    assert [value for column in columns for value in column] == pytest.approx([50, 40, 20, 22])


@pytest.mark.parametrize(
    ("library", "changes", "message"),
    [
        ("tensorflow", {"seed": 0}, "are both of seed 0"),
        ("tensorflow", {"seed": 1, "batch_size": 64, "zero_init_gamma": True}, "differ in batch_size, zero_init_gamma"),
        ("torch", {"precision": "mixed_bfloat16"}, "differ in precision"),
        ("torch", {"name": "other", "data": "digits"}, "runs on cifar10 and digits"),
        ("tensorflow", {"validation": 0.1}, "was not trained on all training images"),
    ],
)
def test_what_does_not_stand_beside_it_is_refused(
    library: str, changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        run_folder(tmp_path / "a", "tensorflow", [20] * 3),
        run_folder(tmp_path / "b", library, [20] * 3, **changes),
    ]
    assert main(runs) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_folders_without_a_finished_run_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(tmp_path / "a", "torch", [20] * 3)
    (tmp_path / "a" / "metrics.json").unlink()
    for words, message in (([run], "is not the folder of a finished run"), ([], "give one run folder or more")):
        assert main(words) == 2
        assert message in capsys.readouterr().err
