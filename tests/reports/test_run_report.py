"""The report of a run: in a browser, and of runs that are not as usual."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from browser import check_page, show
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from small import TINY, randomise

import resnet_keras as rk
from resnet_keras.config.recipes import recipe
from resnet_keras.config.train import TrainConfig
from resnet_keras.inference.evaluate import Evaluation
from resnet_keras.inference.reliability import ReliabilityLog
from resnet_keras.reports import confusion
from resnet_keras.reports.run import RunFacts, write_report
from resnet_keras.training import reporters
from resnet_keras.training.trainer import run

METRICS = {"split": "test", "interrupted": False, "epochs": 1, "seconds": 1.0, "date": "2026-01-02 03:04"}
METRICS |= {"parameters": 2000, "environment": {"data": "some"}}
ROW = {"epoch": 1, "loss": 1.0, "accuracy": 0.5, "learning_rate": 0.1, "seconds": 2.0}


@pytest.fixture(scope="module")
def network() -> keras.Model:
    model = rk.create_model("cifar_resnet20", classes=3, include_preprocessing=True, **TINY)
    randomise(model)
    return model


def evaluation(counts: np.ndarray, labels: tuple[str, ...]) -> Evaluation:
    """Of images whose true and predicted classes are so many."""
    log, n = ReliabilityLog(), len(labels)
    targets, predicted = (part.repeat(counts.ravel()) for part in np.indices(counts.shape).reshape(2, -1))
    sure = np.linspace(0.5, 0.9, len(targets))[:, None]
    probabilities = np.eye(n)[predicted] * sure + (1 - sure) / n
    log.add(np.zeros((len(targets), 32, 32, 3), "float32"), probabilities, targets)
    accuracy = float(np.trace(counts) / counts.sum())
    return Evaluation(1.0, accuracy, 1.0, int(counts.sum()), labels, counts, reliability=log.result())


def report(folder: Path, network: keras.Model, result: Evaluation, rows: list[dict[str, Any]], **changes: Any) -> str:
    facts = RunFacts(network, None, 100, None)
    write_report(folder, recipe("digits"), result, {**METRICS, **changes}, rows, facts)
    return (folder / "report.html").read_text()


def test_a_real_report_is_fit_for_all(digits_run: Path, browser: webdriver.Chrome) -> None:
    page = digits_run / "report.html"
    assert page.stat().st_size < 2_000_000
    check_page(browser, page)
    text = page.read_text()
    for words in ("Calibration error", "Images/s", "Multiply-adds", "Most confident"):
        assert words in text
    command = browser.execute_script(
        "getSelection().selectAllChildren(document.querySelector('pre')); return `${getSelection()}`"
    )
    assert command.startswith("resnet-keras train digits --model-options blocks ")  # as it is copied
    assert "\n" not in command.strip()
    metrics = json.loads((digits_run / "metrics.json").read_text())
    for name, value in (
        ("Calibration error", f"{metrics['ece']:.2%}"),
        ("Parameters", f"{metrics['parameters']:,}"),
    ):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in text
    assert f"<td>{metrics['date']}</td>" in text
    assert text.count("Training image: ") == 16
    assert text.count('alt="Grad-CAM for') == 8
    assert "http" not in text


def test_the_classes_are_sorted_by_keyboard(digits_run: Path, browser: webdriver.Chrome) -> None:
    show(browser, digits_run / "report.html", 1440, "light")
    recall = browser.find_element(By.XPATH, "//button[text()='Recall']")
    for key, order in ((Keys.ENTER, "ascending"), (Keys.SPACE, "descending")):
        recall.send_keys(key)
        assert recall.find_element(By.XPATH, "..").get_attribute("aria-sort") == order
        cells = browser.find_elements(By.CSS_SELECTOR, "table.sorts tbody tr td:nth-child(4)")
        values = [float(cell.get_attribute("data-value") or "") for cell in cells]
        assert values == sorted(values, reverse=order == "descending")
        assert len(set(values)) > 1


def test_two_classes_one_without_images(tmp_path: Path, network: keras.Model) -> None:
    measured = {**ROW, "val_loss": 0.5, "val_accuracy": 1.0, "split": "validation"}
    result = evaluation(np.array([[0, 0], [0, 5]]), ("<none>", "$x$"))
    page = report(tmp_path, network, result, [measured], split="validation", best_epoch=1)
    assert "&lt;none&gt;" in page
    assert "None: every image is classified correctly." in page
    assert "Top 5" not in page
    assert "after 1 epoch, of which number 1 was the best" in page
    assert "</span>validation</li>" in page


def test_an_epoch_without_evaluation_and_a_run_without_an_epoch(tmp_path: Path, network: keras.Model) -> None:
    result = evaluation(np.array([[3, 1, 0], [0, 2, 2], [1, 0, 3]]), ("a", "b", "c"))
    unmeasured = {**ROW, "val_loss": None, "val_accuracy": None}  # of 0.1: without `split`
    assert "<svg" in report(tmp_path, network, result, [unmeasured])
    page = report(tmp_path, network, result, [], interrupted=True, epochs=0)
    assert "Interrupted before its end" in page
    assert "<h2>Training</h2>" not in page
    assert page.count('alt="Grad-CAM for') == 4


def test_what_several_hosts_do_not_know_is_said(tmp_path: Path, network: keras.Model) -> None:
    result = dataclasses.replace(evaluation(np.array([[3, 1], [0, 2]]), ("a", "b")), reliability=None)
    page = report(tmp_path, network, result, [])
    assert "several hosts have each measured a part of the images" in page
    assert "Calibration error" not in page
    assert "Most confident mistakes" not in page


def test_a_thousand_classes(tmp_path: Path, network: keras.Model, browser: webdriver.Chrome) -> None:
    """A map and a list of confusions, the worst classes first, and a class is found by its name."""
    counts = np.eye(1000, dtype="int64") * 2
    counts[7, 8], counts[3, 999] = 5, 9
    mistaken = evaluation(counts, tuple(f"class {i}" for i in range(1000)))
    page = report(tmp_path, network, dataclasses.replace(mistaken, reliability=None), [])
    assert 'class="confusion"' not in page
    first, second = (page.index(f"<td>{name}</td><td>") for name in ("class 3", "class 7"))
    assert first < second
    assert "<td>class 8</td>" in page[second:]
    assert len(page) < 500_000
    show(browser, tmp_path / "report.html", 360, "dark")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    texts = "return [...document.querySelectorAll('table.sorts tbody tr:not([hidden])')].map(row => row.innerText)"
    rows = browser.execute_script(texts)
    assert len(rows) == 1000
    assert [row.split("\t")[0] for row in rows[:4]] == ["class 3", "class 999", "class 7", "class 8"]
    assert rows[0].split("\t")[1:] == ["4", "11", "100.0%", "18.2%", "30.8%", "class 999 (9)"]
    browser.find_element(By.ID, "find").send_keys("CLASS 99")
    assert len(browser.execute_script(texts)) == 11


def test_of_very_many_classes_the_worst_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confusion, "LARGEST_TABLE", 2)
    counts = np.array([[5, 0, 0, 0], [0, 0, 0, 0], [2, 0, 3, 0], [0, 0, 4, 1]])
    table = confusion.class_table(evaluation(counts, ("a", "b", "c", "d")), worst_first=True)
    assert [(row[0].text, row[1].text, row[-1].text) for row in table["rows"]] == [
        ("d", "4", "c (4)"),
        ("c", "3", "a (2)"),
    ]
    assert table["left_out"] == 2


def test_a_report_that_fails_loses_nothing(
    tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr(reporters, "write_report", fails)
    result = run(dataclasses.replace(tiny, epochs=1, run_dir=str(tmp_path / "run")), reporters=[reporters.Report])
    assert result.metrics["examples"] == 360
    assert (tmp_path / "run" / "model.keras").is_file()
    assert "its report could not be written: no ink" in capsys.readouterr().err


def test_the_commit_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert reporters._commit() is None
    author = "-c user.name=a -c user.email=a@b.c"
    assert os.system(f"git init -q . && git {author} commit -q --allow-empty -m one") == 0
    commit = reporters._commit()
    assert commit is not None
    assert len(commit) == 40
    monkeypatch.setenv("PATH", "")
    assert reporters._commit() is None
