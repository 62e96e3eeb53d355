"""Opens a page in headless Chromium as people with a phone, a large screen, by night or by keyboard meet it."""

import importlib.resources
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=900,800"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
WIDTHS = (360, 1440)
SCHEMES = ("light", "dark")
CONTROLS = """
return [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")]
  .filter(one => one.tabIndex >= 0 && !one.disabled && one.checkVisibility({visibilityProperty: true}))
"""


@contextmanager
def chromium(folder: Path) -> Iterator[webdriver.Chrome]:
    """A browser that keeps what it must in a folder. Skips the test where there is none."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("there is no browser: Debian's chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={folder}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def show(browser: webdriver.Chrome, page: Path | str, width: int, scheme: str) -> str:
    """Open a file or a URL at a width in pixels, light or dark; returns its URL."""
    url = page.resolve().as_uri() if isinstance(page, Path) else page
    # A window is never as narrow as a phone.
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    for log in ("browser", "performance"):
        browser.get_log(log)  # what was before
    browser.get(url)
    return url


def violations(browser: webdriver.Chrome) -> list[str]:
    """What axe-core finds wrong with the page: rule, and what to mend where."""
    axe = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    browser.execute_script(axe)
    found = browser.execute_async_script(
        "const done = arguments[0]; "
        "axe.run(document, {resultTypes: ['violations']}).then(found => done(found.violations))"
    )
    return [
        f"{rule['id']}: {node['html'][:200]}: {' '.join(node['failureSummary'].split())}"
        for rule in found
        for node in rule["nodes"]
    ]


def unreached(browser: webdriver.Chrome) -> list[str]:
    """The controls that Tab does not reach from the top of the page."""
    controls: list[Any] = browser.execute_script(CONTROLS)
    browser.execute_script("document.activeElement.blur(); window.getSelection().removeAllRanges()")
    reached = set()
    for _ in range(len(controls)):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(browser.switch_to.active_element.id)
    return [one.get_attribute("outerHTML")[:200] for one in controls if one.id not in reached]


def requests_of(browser: webdriver.Chrome) -> list[str]:
    """The URLs that the page has loaded; what is in the page itself (`data:`) is none."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "blob:"))]


def check_page(browser: webdriver.Chrome, page: Path | str, *, own: tuple[str, ...] = ()) -> None:
    """Assert that a page is fit for all, at each width, light and dark.

    No error on the console, no request of another URL than its own, no scrolling sideways, nothing for axe-core to
    find (contrast AA, names, roles, order), every control reached by Tab.

    Args:
        browser: of `chromium`.
        page: a file or a URL.
        own: beginnings of URLs that the page may ask besides, such as those of its server.
    """
    for width in WIDTHS:
        for scheme in SCHEMES:
            where = f"at {width} pixels, {scheme}"
            url = show(browser, page, width, scheme)
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, f"{where}: the page is {wide} pixels wide"
            found = violations(browser)
            assert not found, f"{where}: {found}"
            outside = [one for one in requests_of(browser) if not one.startswith((url, *own))]
            assert not outside, f"{where}: {outside}"
            logged = browser.get_log("browser")
            assert not logged, f"{where}: {logged}"
    missed = unreached(browser)
    assert not missed, f"the keyboard does not reach {missed}"
    assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
