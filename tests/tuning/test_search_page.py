"""The page of a search in a browser: many hyperparameters, and trials that failed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from browser import check_page, show
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tuning.report import TrialRow, write_report
from tuning.search import SearchConfig

NAMES = [f"parameter_{letter}" for letter in "abcdefghijklmnopqr"]
FAILURE = "the loss of epoch 1 is no number: a lower learning rate or clipping of the gradient may help; " * 2


def trial(number: int, rng: np.random.Generator) -> TrialRow:
    values: dict[str, Any] = {name: float(rng.uniform()) for name in NAMES[:-2]}
    values |= {NAMES[-2]: ["linear", "cosine", "step"][number % 3], NAMES[-1]: bool(number % 2)}
    if number % 6 == 5:
        return TrialRow(f"{number:04}", values, None, {}, FAILURE, [])
    score = float(rng.uniform(0.5, 0.9))
    figures = {"epochs": 2.0, "seconds": 60.0 + number, "parameters": 1e5 + number, "macs": 4e7, "latency_ms": 1.5}
    return TrialRow(f"{number:04}", values, score, figures, None, [(1, score - 0.1), (2, score)])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    rows = [trial(number, rng) for number in range(14)]
    best = max(rows, key=lambda row: row.score or 0)
    objective = SimpleNamespace(direction="max")
    search: Any = SimpleNamespace(
        settings=SearchConfig(space="digits"), full_oracle=SimpleNamespace(objective=objective)
    )
    path = tmp_path_factory.mktemp("search") / "report.html"
    write_report(path, search, rows, best, {"trials": len(rows), "best_trial": best.trial_id})
    return path


def test_the_page_is_fit_for_all(page: Path, browser: webdriver.Chrome) -> None:
    check_page(browser, page)
    assert "http" not in page.read_text()


def test_every_drawing_and_row_is_seen_whole(page: Path, browser: webdriver.Chrome) -> None:
    """The axis of the score was cut off; a trial that failed was a tall row without figures."""
    show(browser, page, 1440, "light")
    for part in browser.find_elements(By.CLASS_NAME, "figure"):
        fits = browser.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth", part)
        assert fits, part.accessible_name
    heights = [row.size["height"] for row in browser.find_elements(By.CSS_SELECTOR, "#trials tbody tr")]
    assert len(heights) == 12
    assert max(heights) < 50
    failed = browser.find_elements(By.CSS_SELECTOR, ".failed li")
    assert len(failed) == 2
    assert all(FAILURE.strip() in one.text and "parameter a 0." in one.text for one in failed)


def test_trials_are_sorted_by_keyboard(page: Path, browser: webdriver.Chrome) -> None:
    show(browser, page, 1440, "dark")
    browser.find_element(By.XPATH, "//button[text()='score']").send_keys(Keys.ENTER)
    cells = browser.find_elements(By.CSS_SELECTOR, "#trials tbody tr td:nth-child(2)")
    scores = [float(cell.text) for cell in cells]
    assert scores == sorted(scores)
    assert len(set(scores)) > 1


def test_a_search_of_failures_alone(page: Path, tmp_path: Path) -> None:
    row = TrialRow("0000", {"a": 1}, None, {}, None, [])
    search: Any = SimpleNamespace(settings=SearchConfig(space="digits"))
    write_report(tmp_path / "report.html", search, [row], None, {})
    text = (tmp_path / "report.html").read_text()
    assert "None has ended well" in text
    assert "Trial 0000: no reason was given" in text
