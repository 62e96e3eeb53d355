"""The pages in a real browser, on a phone and a large screen, light and dark, and by keyboard."""

from pathlib import Path

import pytest
from browser import check_page
from matplotlib.figure import Figure
from selenium import webdriver

from resnet_keras.experiments.finding import Finding, Plot, write_finding

GOOD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title></head>
<body><main><h1>A page</h1>%s</main></body></html>"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ('<div style="width: 400px">wide</div>', "pixels wide"),
        ('<p style="color: #aaa; background: #fff">pale</p>', "color-contrast"),
        ('<img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=">', "image-alt"),
        ("<script>undefined_name()</script>", "undefined_name"),
        ('<img alt="" src="http://127.0.0.1:9/image.png">', "127.0.0.1:9"),
        ('<button onfocus="this.blur()">No</button><button>Yes</button>', "the keyboard does not reach"),
    ],
    ids=["wide", "pale", "nameless", "error", "outside", "unreachable"],
)
def test_the_check_finds_faults(fault: str, said: str, browser: webdriver.Chrome, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(GOOD % fault)
    with pytest.raises(AssertionError, match=said):
        check_page(browser, page)


def test_a_good_page_passes(browser: webdriver.Chrome, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(GOOD % "<p>Words.</p><button>A control</button>")
    check_page(browser, page)


def test_the_page_of_an_experiment_is_fit_for_all(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """Its tables and plots, which are wider than a phone, scroll by themselves."""
    row = {"kind": "plain", "depth": 20, "seed": 0, "train_loss": 0.125, "test_accuracy": 0.97, "run": "runs/plain-20"}
    figure = Figure(figsize=(9, 4))
    figure.subplots().plot([1, 2], [2, 1])
    plots = (Plot("curves", "Training loss by epoch", figure, [row]),)
    write_finding(
        tmp_path, Finding("Degradation", ("It was seen.",), plots, [row], means=[row], protocol={"epochs": 2})
    )
    check_page(browser, tmp_path / "report.html")
