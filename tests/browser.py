"""Opens a page in headless Chromium as people with a phone, a large screen, by night or by keyboard meet it."""

import functools
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
SCROLLING = 20
"""Boxes of a page at which Tab may stop besides its controls."""
CONTROLS = """
return [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")]
  .filter(one => one.tabIndex >= 0 && !one.disabled && one.checkVisibility({visibilityProperty: true}))
  // Of radio buttons, Tab stops at the one that is on; the arrows lead to the others.
  .filter(one => one.type !== "radio" || one.checked)
"""
MOVED = """
const moving = () => document.getAnimations().filter(one => one.effect.getComputedTiming().endTime < Infinity)
requestAnimationFrame(() => setTimeout(() =>
  Promise.allSettled(moving().map(one => one.finished)).then(arguments[0])))
"""
"""Calls back when what a new width or scheme moves has come to its place."""


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
    resize(browser, width, scheme)
    for log in ("browser", "performance"):
        browser.get_log(log)  # what was before
    browser.get(url)
    return url


def resize(browser: webdriver.Chrome, width: int, scheme: str) -> None:
    """Show the page that is open at another width, light or dark."""
    # A window is never as narrow as a phone.
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.execute_async_script(MOVED)


@functools.cache
def _axe() -> str:
    return importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")


def violations(browser: webdriver.Chrome) -> list[str]:
    """What axe-core finds wrong with the page as it is: rule, and what to mend where."""
    if not browser.execute_script("return 'axe' in window"):
        browser.execute_script(_axe())
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
    left = {one.id for one in controls}
    # Tab stops at what scrolls, too, which is no control.
    for _ in range(len(controls) + SCROLLING):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        left.discard(browser.switch_to.active_element.id)
        if not left:
            break
    return [one.get_attribute("outerHTML")[:200] for one in controls if one.id in left]


def requests_of(browser: webdriver.Chrome) -> list[str]:
    """The URLs that the page has loaded; what is in the page itself (`data:`) or in the browser is none."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "blob:", "chrome"))]


def check_widths(browser: webdriver.Chrome) -> None:
    """Assert that the page that is open, in the state that it is in, is fit at each width, light and dark.

    No scrolling sideways, and nothing for axe-core to find (contrast AA, names, roles, order).
    """
    for width in WIDTHS:
        for scheme in SCHEMES:
            where = f"at {width} pixels, {scheme}"
            resize(browser, width, scheme)
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, f"{where}: the page is {wide} pixels wide"
            found = violations(browser)
            assert not found, f"{where}: {found}"


def check_page(browser: webdriver.Chrome, page: Path | str, *, own: tuple[str, ...] = ()) -> None:
    """Assert that a page is fit for all.

    As `check_widths`; besides no error on the console, no request of another URL than its own, every control reached by
    Tab, and its language named.

    Args:
        browser: of `chromium`.
        page: a file or a URL.
        own: beginnings of URLs that the page may ask besides, such as those of its server.
    """
    url = show(browser, page, WIDTHS[0], SCHEMES[0])
    check_widths(browser)
    missed = unreached(browser)
    assert not missed, f"the keyboard does not reach {missed}"
    assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
    check_quiet(browser, (url, *own))


def check_quiet(browser: webdriver.Chrome, own: tuple[str, ...]) -> None:
    """Assert that since `show` nothing was logged on the console, and only URLs that begin as `own` were asked."""
    outside = [one for one in requests_of(browser) if not one.startswith(own)]
    assert not outside, f"it asks {outside}"
    logged = browser.get_log("browser")
    assert not logged, f"on the console: {logged}"
