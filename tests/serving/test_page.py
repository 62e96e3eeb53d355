"""The page, as a person meets it: in a real browser, by mouse and by keyboard alone."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from browser import SCHEMES, check_page, check_quiet, check_widths, resize, show, violations
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from serving_models import Address, config_of, half_plus, running
from small import TINY, randomise

import resnet_keras as rk
from resnet_keras.serving.client import ServerClient
from resnet_keras.serving.page import PAGE

OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """A server of a network with random weights, whose crop is a part of a wide image, and of a model of no images."""
    folder = tmp_path_factory.mktemp("saved_models")
    model = rk.build_cifar_resnet(8, include_preprocessing=rk.ModelCard(crop=0.875), **TINY)
    randomise(model)
    rk.export_servable(model, folder / "colours", labels=list("abcdefghij"))
    half_plus(2.0, folder / "half" / "1")
    with running(model_config_file=config_of(folder, "colours", "half")) as address:
        yield address


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "wide.png"
    path.write_bytes(tf.io.encode_png(np.random.default_rng(0).integers(0, 256, (120, 240, 3), "uint8")).numpy())
    return path


def give(browser: webdriver.Chrome, path: Path, words: str) -> str:
    """Choose a file; what the page says, once it says these words."""
    browser.find_element(By.ID, "file").send_keys(str(path))
    return said(browser, words)


def said(browser: webdriver.Chrome, words: str) -> str:
    element = browser.find_element(By.ID, "status")
    WebDriverWait(browser, 60, 0.05).until(lambda _: words in element.text)
    return element.text


def explained(served: Address, path: Path) -> dict[str, list]:
    """What the server answers a program."""
    reply = served.post(
        "/v1/models/colours:predict",
        {"signature_name": "explain", "instances": [{"b64": base64.b64encode(path.read_bytes()).decode()}]},
    )
    assert re.fullmatch(r"model;dur=\d+\.\d", reply.headers["server-timing"])
    return reply.json()["predictions"][0]


def test_it_is_fit_for_all(served: Address, browser: webdriver.Chrome) -> None:
    check_page(browser, served.url)
    assert browser.find_element(By.ID, "status").get_attribute("aria-live") == "polite"
    for control in ("model", "file"):
        assert browser.find_element(By.CSS_SELECTOR, f"label[for={control}]").text
    papers = []
    for scheme in SCHEMES:
        resize(browser, 360, scheme)
        papers.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert papers[0] == "rgb(255, 255, 255)"
    assert papers[1] != papers[0]


def test_an_image_is_answered(served: Address, browser: webdriver.Chrome, wide: Path, tmp_path: Path) -> None:
    (expected,) = ServerClient(served.rest, "colours").send([str(wide)])
    url = show(browser, served.url, 1440, "light")
    answer = give(browser, wide, "answered in")
    assert answer.startswith(f"{expected.labels[0]}, ")
    assert re.search(r"colours version 1 answered in \d+ ms\.$", answer)
    rows = [row.text.split("\n") for row in browser.find_elements(By.CSS_SELECTOR, "#classes li")]
    assert [row[0] for row in rows] == list(expected.labels)
    assert [row[1] for row in rows] == [f"{100 * score:.1f} %" for score in expected.scores]
    bars = [bar.size["width"] for bar in browser.find_elements(By.CLASS_NAME, "bar")]
    assert bars == sorted(bars, reverse=True)
    assert bars[0] > 0
    times = browser.find_element(By.ID, "times").text
    assert re.search(r"Round trip\s+\d+ ms\s+In the model\s+\d+ ms", times)
    check_widths(browser)
    check_quiet(browser, (url, served.url))
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"junk")
    assert "damaged.png cannot be read: it is damaged" in give(browser, damaged, "cannot be read")
    assert not browser.find_element(By.ID, "answer").is_displayed()
    check_widths(browser)
    give(browser, wide, "answered in")
    complaints = [entry for entry in browser.get_log("browser") if "400" not in entry["message"]]
    assert complaints == []


def test_what_speaks_for_each_class_is_shown(served: Address, browser: webdriver.Chrome, wide: Path) -> None:
    found = explained(served, wide)
    show(browser, served.url, 900, "light")
    give(browser, wide, "answered in")
    heat, shown, image = (browser.find_element(By.ID, name) for name in ("heat", "shown", "image"))
    WebDriverWait(browser, 20, 0.05).until(lambda _: image.get_property("naturalWidth") == 240)
    # The heat lies where the network looks.
    top, left, bottom, right = found["window"]
    box, inside = image.rect, heat.rect
    assert inside["x"] - box["x"] == pytest.approx(left * box["width"], abs=1)
    assert inside["y"] - box["y"] == pytest.approx(top * box["height"], abs=1)
    assert inside["width"] == pytest.approx((right - left) * box["width"], abs=1)
    assert inside["height"] == pytest.approx((bottom - top) * box["height"], abs=1)
    assert browser.find_element(By.ID, "frame").is_displayed()
    # And is brightest in green, as viridis is, where the class is.
    for place in (0, 2):
        row = browser.find_elements(By.CSS_SELECTOR, "button.row")[place]
        row.send_keys(Keys.ENTER)
        assert row.get_attribute("aria-pressed") == "true"
        assert browser.find_element(By.ID, "explained").text == found["labels"][place]
        green = browser.execute_script(
            "const c = document.getElementById('heat');"
            "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
            ".filter((_, i) => i % 4 === 1);"
        )
        drawn = np.reshape(green, (160, 160)).astype("float64")
        expected = tf.image.resize(np.array(found["heat"][place])[..., None], (160, 160)).numpy()[..., 0]
        assert np.ptp(expected) > 0.1
        assert np.corrcoef(drawn.ravel(), expected.ravel())[0, 1] > 0.99
    browser.find_element(By.ID, "explain").send_keys(Keys.SPACE)
    assert not heat.is_displayed()
    assert "heated" not in (shown.get_attribute("class") or "")


def test_a_model_that_takes_no_images_is_said(served: Address, browser: webdriver.Chrome, wide: Path) -> None:
    show(browser, served.url, 900, "light")
    Select(browser.find_element(By.ID, "model")).select_by_visible_text("half")
    assert "half takes no images" in give(browser, wide, "half takes")
    Select(browser.find_element(By.ID, "model")).select_by_visible_text("colours")
    said(browser, "answered in")  # the same image, by the other model


def test_a_server_that_cannot_be_reached_is_said(served: Address, browser: webdriver.Chrome, wide: Path) -> None:
    show(browser, served.url, 900, "light")
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", OFFLINE)
    try:
        assert "cannot be reached" in give(browser, wide, "cannot be reached")
    finally:
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", {**OFFLINE, "offline": False})


def test_nothing_is_asked_of_other_hosts(served: Address) -> None:
    assert "http" not in PAGE.read_text().replace("http-equiv", "")
    response = served.get("/")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<option>colours</option><option>half</option>" in response.text


def test_which_of_several_labels_are_given(browser: webdriver.Chrome, wide: Path, tmp_path: Path) -> None:
    card = rk.ModelCard(labels=("a", "b", "c"), thresholds=(0.0, 1.1, 0.0))
    model = rk.build_cifar_resnet(8, classes=3, classifier_activation="sigmoid", include_preprocessing=card, **TINY)
    folder = rk.export_servable(model, tmp_path / "several")
    with running(model_name="several", model_base_path=str(folder.parent)) as address:
        browser.get(address.url)
        words = give(browser, wide, "answered in")
        names = [row.text.split("\n")[0] for row in browser.find_elements(By.CSS_SELECTOR, "#classes li")]
        found = violations(browser)
    assert sorted(words.split(". ")[0].split(", ")) == ["a", "c"]
    assert sorted(names) == ["a", "b (below its threshold)", "c"]
    assert not found
