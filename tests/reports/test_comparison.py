"""`compare`: runs side by side, of this version and of 0.1, and those that cannot be compared."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from browser import check_page
from selenium import webdriver

from resnet_keras.cli.main import main
from resnet_keras.config.run_folder import CONFIG, HISTORY, METRICS, run_config

Capture = pytest.CaptureFixture[str]
V0_1 = Path(__file__).parents[1] / "v0_1"


@pytest.fixture
def other(digits_run: Path, tmp_path: Path) -> Path:
    """A run of another rate that is better in accuracy and worse in loss."""
    folder = tmp_path / "other <run>"
    folder.mkdir()
    config = run_config(digits_run)
    assert config is not None
    changed = dataclasses.replace(config.optimizer, learning_rate=0.025)
    (folder / CONFIG).write_text(dataclasses.replace(config, optimizer=changed).to_json())
    metrics = json.loads((digits_run / METRICS).read_text())
    metrics |= {"accuracy": metrics["accuracy"] + 0.01, "loss": metrics["loss"] + 1}
    (folder / METRICS).write_text(json.dumps(metrics))
    shutil.copy(digits_run / HISTORY, folder / HISTORY)
    return folder


def test_two_runs(digits_run: Path, other: Path, tmp_path: Path, capsys: Capture, browser: webdriver.Chrome) -> None:
    page = tmp_path / "page.html"
    assert main(["compare", str(digits_run), str(other), "--output", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"] == {"accuracy": [other.name], "top5_accuracy": [], "loss": [digits_run.name]}
    assert found["differences"] == {"learning_rate": [0.1, 0.025]}
    assert [run["epochs"] for run in found["runs"]] == [2, 2]
    assert [run["run_dir"] for run in found["runs"]] == [str(digits_run), str(other)]
    metrics = json.loads((digits_run / METRICS).read_text())
    assert {(run["date"], run["parameters"]) for run in found["runs"]} == {(metrics["date"], metrics["parameters"])}
    assert (found["warnings"], found["page"]) == ([], str(page))
    text = page.read_text()
    assert text.count('class="best"') == 2
    assert "A star marks the best" in text
    assert text.count(f"<td>{metrics['date']}</td>") == 2
    assert text.count(f">{metrics['parameters']:,}</td>") == 2
    assert "other &lt;run&gt;" in text
    assert "http" not in text
    check_page(browser, page)


def test_words(digits_run: Path, other: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = json.loads((other / METRICS).read_text())
    (other / METRICS).write_text(json.dumps({**metrics, "split": "validation", "interrupted": True}))
    assert main(["compare", str(digits_run), str(other)]) == 0
    said = capsys.readouterr().out
    assert "not measured on the same images, so none is marked as the best" in said
    assert f"interrupted before the end: {other.name}" in said
    assert "page in comparison.html" in said
    text = (tmp_path / "comparison.html").read_text()
    assert 'class="best"' not in text
    assert "A star marks" not in text


def test_a_run_of_0_1(digits_run: Path, tmp_path: Path, capsys: Capture) -> None:
    old, page = tmp_path / "old", str(tmp_path / "page.html")
    shutil.copytree(V0_1 / "run", old)
    assert main(["compare", str(digits_run), str(old), "--output", page]) == 2
    assert "is not finished: it has no metrics.json" in capsys.readouterr().err
    shutil.copy(V0_1 / "run_end.csv", old / HISTORY)
    (old / METRICS).write_text(json.dumps(json.loads((V0_1 / "run_end.json").read_text())["metrics"]))
    assert main(["compare", str(digits_run), str(old), "--output", page, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["split"] for run in found["runs"]] == ["test", "test"]
    assert found["best"]["accuracy"] == [digits_run.name]
    assert (found["runs"][1]["date"], found["runs"][1]["parameters"]) == (None, None)  # not in files of 0.1


def test_what_cannot_be_compared(digits_run: Path, other: Path, tmp_path: Path, capsys: Capture) -> None:
    def refused(*words: str) -> str:
        assert main(["compare", str(digits_run), *words, "--output", str(tmp_path / "page.html")]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.strip().count("\n") == 0
        assert not (tmp_path / "page.html").exists()
        return said.err

    assert "give at least two run folders" in refused()
    assert "a run is given twice" in refused(str(digits_run))
    assert "is no run folder" in refused(str(tmp_path))
    whole = (other / HISTORY).read_text()
    for text, said in (
        (whole.replace("seconds", "secs"), "a row has no seconds"),
        (whole[:-40], "is damaged|cannot be read"),
        (whole.replace("1,", "one,", 1), "could not convert string to float"),
    ):
        (other / HISTORY).write_text(text)
        assert any(part in refused(str(other)) for part in said.split("|"))
    (other / METRICS).write_text("{}")
    assert "has no number for accuracy" in refused(str(other))
    (other / METRICS).write_text('{"accuracy"')
    assert "metrics.json cannot be read" in refused(str(other))
