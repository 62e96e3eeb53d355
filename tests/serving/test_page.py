"""The page, as a person meets it: in a real browser, by mouse and by keyboard alone."""

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from serving_models import Address, half_plus, running
from small import randomise

import resnet_keras as rk
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


CONTRASTS = """
const light = (text) => {
  const parts = text.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255);
  const [r, g, b] = parts.map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (one) => {
  while (one && /rgba\\(.*, 0\\)/.test(getComputedStyle(one).backgroundColor)) one = one.parentElement;
  return one ? getComputedStyle(one).backgroundColor : "rgb(255, 255, 255)";
};
const found = {};
for (const one of document.querySelectorAll("body *")) {
  const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || !one.offsetParent || one.tagName === "SCRIPT") continue;
  const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
  found[one.tagName + Object.keys(found).length + " " + one.textContent.trim().slice(0, 20)] = (a + 0.05) / (b + 0.05);
}
return found;
"""
"""By each text on the page: its contrast with what is behind it, as WCAG 2 reckons it."""


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
    assert "damaged.png cannot be read: it is damaged" in status_of(browser, "cannot be read")
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


@pytest.fixture(scope="module")
def colour_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A servable of a network with random weights, whose crop is a part of a wide image."""
    model = rk.build_cifar_resnet(8, include_preprocessing=rk.ModelCard(crop=0.875))
    randomise(model)
    return rk.export_servable(model, tmp_path_factory.mktemp("saved_models") / "colours", labels=list("abcdefghij"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "wide.png"
    path.write_bytes(tf.io.encode_png(np.random.default_rng(0).integers(0, 256, (120, 240, 3), "uint8")).numpy())
    return path


def test_what_speaks_for_each_class_is_shown(colour_net: Path, browser: webdriver.Chrome, wide: Path) -> None:
    with running(model_name="colours", model_base_path=str(colour_net.parent)) as address:
        browser.get(address.url)
        browser.find_element(By.ID, "file").send_keys(str(wide))
        status_of(browser, "answered in")
        reply = address.post(
            "/v1/models/colours:predict",
            {"signature_name": "explain", "instances": [{"b64": base64.b64encode(wide.read_bytes()).decode()}]},
        )
        found = reply.json()["predictions"][0]
        assert re.fullmatch(r"model;dur=\d+\.\d", reply.headers["server-timing"])
        heat, shown, image = (browser.find_element(By.ID, name) for name in ("heat", "shown", "image"))
        WebDriverWait(browser, 20).until(lambda _: image.get_property("naturalWidth") == 240)
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
        times = browser.find_element(By.ID, "times").text
        assert re.search(r"Round trip\s+\d+ ms\s+In the model\s+\d+ ms", times)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read(
    scheme: str, colour_net: Path, browser: webdriver.Chrome, wide: Path, tmp_path: Path
) -> None:
    """No sideways scrolling, and 4.5 to 1 between the letters and what is behind them (WCAG 2, AA)."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"junk")
    with running(model_name="colours", model_base_path=str(colour_net.parent)) as address:
        for width in (1440, 360):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == 360}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(address.url)
            for path, words in ((wide, "answered in"), (damaged, "cannot be read")):
                browser.find_element(By.ID, "file").send_keys(str(path))
                status_of(browser, words)
                assert browser.execute_script("return document.documentElement.scrollWidth") <= width
                contrasts = browser.execute_script(CONTRASTS)
                assert len(contrasts) >= (15 if path == wide else 4)
                assert min(contrasts.values()) >= 4.5, contrasts
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_a_model_that_takes_no_images_is_said(browser: webdriver.Chrome, wide: Path, tmp_path: Path) -> None:
    half_plus(2.0, tmp_path / "half" / "1")
    with running(model_name="half", model_base_path=str(tmp_path / "half")) as address:
        browser.get(address.url)
        browser.find_element(By.ID, "file").send_keys(str(wide))
        assert "half takes no images" in status_of(browser, "half takes")


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
