"""The documentation site: built without a warning, and opened as readers open it."""

import functools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import check_page, show
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from resnet_keras.cli import reference

ROOT = Path(__file__).resolve().parents[2]
MKDOCS = Path(sys.prefix, "docs", "bin", "mkdocs")
PAGES = ("", "guides/finetune/", "reference/networks/", "reference/commands/", "results/cifar10/")
LOADED = re.compile(r"""(?:\bsrc=["']?|<link\b[^>]*\bhref=["']?|url\(["']?|@import ["'])((?:https?:)?//[^"')\s>]*)""")
pytestmark = pytest.mark.guides


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not MKDOCS.is_file():
        pytest.skip("there is no MkDocs; `make docs` installs it")
    folder = tmp_path_factory.mktemp("site")
    reference.main(ROOT / "build" / "reference")
    command = [MKDOCS, "build", "--strict", "--site-dir", folder]
    built = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_site_names_no_resource_of_others(site: Path) -> None:
    pages = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(pages) > 20
    loaded = {str(path.relative_to(site)): LOADED.findall(path.read_text("utf-8")) for path in pages}
    assert not {path: found for path, found in loaded.items() if found}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_fit_for_all(page: str, address: str, browser: webdriver.Chrome) -> None:
    check_page(browser, address + page, own=(address,))


def test_the_search_finds_a_name(address: str, browser: webdriver.Chrome) -> None:
    show(browser, address, 1440, "light")
    browser.find_element(By.CSS_SELECTOR, ".md-search__input").send_keys("build_cifar_resnet")
    found = WebDriverWait(browser, 30).until(
        lambda driver: driver.find_elements(By.CSS_SELECTOR, "a.md-search-result__link")
    )
    assert "reference/networks/" in str(found[0].get_attribute("href"))
