"""The page of the drawn report, and a browser to look at it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compressbench.reporting.page import write_page

WORD = "the page is tested in Chromium: install it and its driver, as in apt-get install chromium chromium-driver"


@pytest.fixture(scope="session")
def page(report: SimpleNamespace) -> Path:
    """index.html beside the report's tables."""
    return write_page(report.out, report.root / "methods", report.declarations)


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    """Chromium without a window; a machine without it skips these tests, and says so."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        pytest.skip(WORD)
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(programs[1]))
    yield browser
    browser.quit()
