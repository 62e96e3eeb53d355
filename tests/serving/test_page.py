"""The page, as a person meets it: in a real browser, by mouse and by keyboard alone."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from serving_models import Address, running

from resnet_keras.serving.client import ServerClient
from resnet_keras.serving.page import PAGE

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=900,800"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def served(servable: Path) -> Iterator[Address]:
    with running(model_name="digits", model_base_path=str(servable.parent)) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("there is no browser: Debian's chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def status_of(browser: webdriver.Chrome, words: str) -> str:
    """What the page says, once it says these words."""
    element = browser.find_element(By.ID, "status")
    WebDriverWait(browser, 60).until(lambda _: words in element.text)
    return element.text


def test_an_image_is_answered(served: Address, browser: webdriver.Chrome, digit_png: Path, tmp_path: Path) -> None:
    (expected,) = ServerClient(served.rest, "digits").send([str(digit_png)])
    browser.get(served.url)
    browser.find_element(By.ID, "file").send_keys(str(digit_png))
    said = status_of(browser, "answered in")
    assert said.startswith(f"{expected.labels[0]}, ")
    assert re.search(r"digits version 1 answered in \d+ ms\.$", said)
    rows = [row.text.split("\n") for row in browser.find_elements(By.CSS_SELECTOR, "#classes li")]
    assert [row[0] for row in rows] == list(expected.labels)
    assert [row[1] for row in rows] == [f"{100 * score:.1f} %" for score in expected.scores]
    bars = [bar.size["width"] for bar in browser.find_elements(By.CLASS_NAME, "bar")]
    assert bars == sorted(bars, reverse=True)
    assert bars[0] > 0
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"junk")
    browser.find_element(By.ID, "file").send_keys(str(damaged))
    assert "no image can be read" in status_of(browser, "no image")
    assert not browser.find_element(By.ID, "answer").is_displayed()
    browser.find_element(By.ID, "file").send_keys(str(digit_png))
    status_of(browser, "answered in")
    complaints = [entry for entry in browser.get_log("browser") if "400" not in entry["message"]]
    assert complaints == []


def test_the_keyboard_reaches_everything(served: Address, browser: webdriver.Chrome) -> None:
    browser.get(served.url)
    reached = []
    for _ in range(2):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(browser.switch_to.active_element.get_attribute("id"))
    assert reached == ["model", "file"]
    assert browser.find_element(By.ID, "status").get_attribute("aria-live") == "polite"
    for control in ("model", "file"):
        assert browser.find_element(By.CSS_SELECTOR, f"label[for={control}]").text
    assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"


def test_a_server_that_goes_away_is_said(servable: Path, browser: webdriver.Chrome, digit_png: Path) -> None:
    with running(model_name="digits", model_base_path=str(servable.parent)) as address:
        browser.get(address.url)
    browser.find_element(By.ID, "file").send_keys(str(digit_png))
    assert "cannot be reached" in status_of(browser, "cannot be reached")


def test_nothing_is_asked_of_other_hosts(served: Address) -> None:
    assert "http" not in PAGE.read_text().replace("http-equiv", "")
    response = served.get("/")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<option>digits</option>" in response.text
