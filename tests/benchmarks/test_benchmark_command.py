"""`resnet-keras benchmark`: its words, its exit codes, what it prints and writes."""

import json
from pathlib import Path
from typing import Any

import pytest
from stand_ins import variant

from resnet_keras.benchmarks import command
from resnet_keras.benchmarks.report import as_file, read_reports
from resnet_keras.benchmarks.settings import InferSettings, InputSettings, TrainSettings
from resnet_keras.cli.main import main

Capture = pytest.CaptureFixture[str]
FEW = ["--pairs", "2", "--seconds", "0.01", "--no-limit"]


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows without a network."""
    rows = [variant("Keras", answers=[[0.9, 0.1]]), variant("ours", answers=[[0.8, 0.2]])]
    monkeypatch.setattr(TrainSettings, "variants", lambda settings: rows)


@pytest.mark.usefixtures("stand_ins")
def test_a_benchmark(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "results"
    assert main(["benchmark", "train", *FEW, "--output", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "| ours |" in out
    assert "Medians of 2 rounds" in out
    assert f"written: {folder / 'benchmarks.json'}" in out
    assert main(["benchmark", "train", *FEW, "--json", "--quick"]) == 0
    out = capsys.readouterr().out
    entry = json.loads(out)["reports"]["train"]
    assert [row["name"] for row in entry["rows"]] == ["Keras", "ours"]
    assert entry["rows"][1]["facts"] == {"agreement": 1.0, "cosine": pytest.approx(1.0)}
    assert entry["machine"]["versions"]["tensorflow"]


@pytest.mark.usefixtures("stand_ins")
def test_what_got_slower_is_named(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "benchmarks.json"
    assert main(["benchmark", "train", *FEW, "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    for factor, code, words in ((1e-6, 0, "0 slower beyond the spread"), (1e6, 1, "slower: group: ours, ")):
        value: dict[str, Any] = json.loads(as_file(read_reports(file)))
        row = value["reports"]["train"]["rows"][1]
        value["reports"]["train"]["rows"] = [{**row, "rates": [rate * factor for rate in row["rates"]]}]
        (tmp_path / "old.json").write_text(json.dumps(value))
        assert main(["benchmark", "train", *FEW, "--json", "--against", str(tmp_path / "old.json")]) == code
        out, err = capsys.readouterr()
        assert words in err
        json.loads(out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "what to measure comes first"),
        ("trian", "unknown benchmark 'trian'; choose from train, infer, input, serve"),
        ("train --pairs 1", "pairs must be at least 2, not 1"),
        ("train --seconds 0", "seconds must be above 0"),
        ("train --model resnet51", "unknown model 'resnet51'; did you mean resnet50"),
        ("train --model 51", "unknown model 'resnet51'"),
        ("train --batch-size 0", "batch_size must be at least 1, not 0"),
        ("train --batch-size 8 8", "batch_size must be different from one another"),
        ("train --dtype int8", "unknown dtype 'int8'; choose from float32, bfloat16, float16"),
        ("train --against /nowhere.json", "/nowhere.json cannot be read: No such file"),
        ("train --output /dev/null", "output /dev/null is a file"),
        ("infer --model nothing", "unknown model 'nothing'"),
        ("infer --model /", "/ is no run folder, .keras file or servable"),
        ("infer --dtype float16", "unknown dtype 'float16'; choose from float32, bfloat16, int8"),
        ("infer --model cifar10-jpeg --image-size 8", "image_size must be left out for a model in a file"),
        ("input --recipe nothing", "unknown recipe 'nothing'"),
        ("serve", "give --model-base-path"),
        ("serve --model_base_path /nowhere", "/nowhere has no version with a saved_model.pb in it"),
        ("serve --clients 2 --model_bas_path x", "unknown flag --model_bas_path; did you mean --model-base-path"),
    ],
)
def test_wrong_words(words: str, message: str, capsys: Capture) -> None:
    assert main(["benchmark", *words.split()]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("resnet-keras: ")]
    assert message in line


def test_a_process_that_dies(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    dying = [variant("ours", "dying", after=0, how="exit")]
    monkeypatch.setattr(TrainSettings, "variants", lambda settings: dying)
    assert main(["benchmark", "train", *FEW, "--quiet"]) == 2
    err = capsys.readouterr().err
    assert err == "resnet-keras: the process of ours ended with exit code 3: it said nothing\n"


def test_the_limit_is_measured_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = iter({"macs_per_second": {"int8": int8, "float32": 5 - int8}} for int8 in (1.0, 2.0))
    monkeypatch.setattr(command, "measured_limit", lambda: next(limits))
    assert command.within_limits(lambda: 7) == (7, {"macs_per_second": {"int8": 2.0, "float32": 4.0}})
    assert command.within_limits(lambda: 7, False) == (7, None)


def test_variants() -> None:
    train = TrainSettings(("50", "cifar_resnet20"), (8, 16), (), ("float32", "bfloat16")).variants()
    assert len(train) == len({one.title for one in train}) == 16
    assert train[0].title == "resnet50 224x224 batch 8 float32: Keras train_on_batch"
    infer = InferSettings("18", (1, 8)).variants()
    assert [one.name for one in infer[:2]] == ["model.export()", "Keras call"]
    assert len({one.process.key() for one in infer}) == 5  # a process for all sizes of batches
    (only,) = InputSettings("digits", ("digits",), 8).variants()
    assert only.title == "digits batch 8: as digits"


@pytest.mark.slow  # half a minute: six processes with TensorFlow
def test_real_rows(tmp_path: Path, capsys: Capture) -> None:
    small = ["--pairs", "2", "--seconds", "0.05", "--output", str(tmp_path)]
    train = ["--model", "cifar_resnet20", "--image-size", "8", "--batch-size", "2", "--dtype", "float32"]
    assert main(["benchmark", "train", *train, *small]) == 0
    infer = ["--model", "cifar_resnet20", "--image-size", "8", "--batch-size", "2", "--dtype", "float32"]
    assert main(["benchmark", "infer", *infer, *small, "--no-limit"]) == 0
    assert main(["benchmark", "input", "--image-size", "32", "--recipe", "none", *small, "--no-limit"]) == 0
    reports = read_reports(tmp_path / "benchmarks.json")
    assert [len(report.rows) for report in reports.values()] == [2, 3, 1]
    assert all(0 < (row.share or 0) < 1 for row in reports["train"].rows)
    assert reports["infer"].rows[2].facts["cosine"] == pytest.approx(1.0, abs=1e-4)
