"""The page in a browser: it opens, filters, sorts and changes its axes, and its numbers are those of the CSV files."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from compressbench.reporting.columns import STORED
from compressbench.reporting.page.rows import read_results

WIDTH, HEIGHT, PHONE = 1280, 900, 360
SECONDS = 60


@pytest.fixture
def browser(driver: Any, page: Path) -> Iterator[Any]:
    """The opened page, as wide as a screen and in light colours; nothing may have been said on its console."""
    resize(driver, WIDTH)
    prefer(driver, "light")
    open_page(driver, page)
    yield driver
    assert [entry["message"] for entry in driver.get_log("browser")] == []


def open_page(driver: Any, page: Path, fragment: str = "") -> None:
    driver.get("about:blank")
    driver.get(page.as_uri() + fragment)
    wait(driver, lambda: driver.execute_script("return document.body.dataset.ready"))


def wait(driver: Any, condition: Callable[[], object]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, SECONDS, poll_frequency=0.05).until(lambda _: condition())


def resize(driver: Any, width: int) -> None:
    size = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def prefer(driver: Any, colours: str) -> None:
    wanted = {"features": [{"name": "prefers-color-scheme", "value": colours}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)


def choose(driver: Any, form: str, name: str, value: str) -> None:
    """A choice in a list, as a person makes it."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element(By.CSS_SELECTOR, f"#{form} [name={name}]")).select_by_value(value)
    drawn(driver)


def drawn(driver: Any) -> None:
    wait(driver, lambda: not driver.execute_script("return document.body.dataset.drawing"))


def cells(driver: Any, column: int) -> list[str]:
    script = "return [...document.querySelectorAll('#table tbody tr')].map((row) => row.cells[arguments[0]].innerText)"
    return driver.execute_script(script, column)


def headings(driver: Any) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll('#table thead th')].map((c) => c.innerText.trim())"
    )


def marks(driver: Any) -> int:
    return driver.execute_script("return document.querySelectorAll('#figure .mark-symbol.role-mark path').length")


def all_rows(driver: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    choose(driver, "filters", "pair", "")
    Select(driver.find_element(By.CSS_SELECTOR, ".dt-length select")).select_by_value("-1")


def test_what_the_table_shows_is_what_the_csv_files_have(browser: Any, report: SimpleNamespace) -> None:
    all_rows(browser)
    results = read_results(report.out / "tables", report.declarations)
    columns = [headings(browser).index(name) for name in ("Method", "Setting", "Network", "Quality")]
    found = {
        (title, label, network): float(quality.split()[0])
        for title, label, network, quality in zip(*(cells(browser, column) for column in columns), strict=True)
    }
    files = (report.out / "tables").glob("comparison_*.csv")
    frames = [pd.read_csv(path).assign(model=path.stem.removeprefix("comparison_")) for path in files]
    table = pd.concat(frames)
    assert len(table) == len(results) == len(found)
    for row in table.itertuples():
        network = row.model.removeprefix("fashion_mnist_").removeprefix("photographs_")
        assert found[row.title, row.label, network] == pytest.approx(row.quality, abs=0.005 + 1e-9)


def test_filters_leave_the_same_rows_in_the_table_and_in_the_figure(browser: Any, report: SimpleNamespace) -> None:
    results = read_results(report.out / "tables", report.declarations)
    all_rows(browser)
    assert len(cells(browser, 0)) == len(results)
    choose(browser, "filters", "kind", "Block pruning")
    wanted = results[results.kind == "Block pruning"]
    assert len(cells(browser, 0)) == len(wanted) > 0
    assert marks(browser) == len(wanted)
    field = browser.find_element("name", "words")
    field.send_keys("random 1×16")
    drawn(browser)
    assert set(cells(browser, 0)) == {"Random blocks"}
    browser.find_element("css selector", "#filters [type=reset]").click()
    wait(browser, lambda: len(cells(browser, 0)) == len(results))


def test_a_heading_sorts_by_number(browser: Any, report: SimpleNamespace) -> None:
    all_rows(browser)
    place = headings(browser).index("Stored")
    heading = browser.find_elements("css selector", "#table thead th")[place]
    results = read_results(report.out / "tables", report.declarations)
    for order in ("ascending", "descending"):
        heading.click()
        wait(browser, lambda order=order: heading.get_attribute("aria-sort") == order)
        wanted = results.stored_bytes.sort_values(ascending=order == "ascending")
        assert cells(browser, place) == [STORED.text(SimpleNamespace(stored_bytes=size)) for size in wanted]


def test_axes_change_and_the_front_follows_the_filter(browser: Any) -> None:
    titles = "return [...document.querySelectorAll('#figure .role-axis-title text')].map((t) => t.textContent)"
    front = "return document.querySelector('#figure .mark-line path')?.getAttribute('d')"
    assert browser.execute_script(titles) == ["stored bytes", "top-1, %"]
    choose(browser, "axes", "x", "macs")
    choose(browser, "axes", "y", "best_speedup")
    assert browser.execute_script(titles) == ["MACs", "speed-up over dense"]
    before = browser.execute_script(front)
    choose(browser, "filters", "role", "baseline")
    assert before and browser.execute_script(front) not in (None, before)
    browser.find_element("name", "front").click()
    drawn(browser)
    assert browser.execute_script(front) is None


def test_pointing_at_a_mark_shows_its_interval_and_the_published_value(browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    choose(browser, "filters", "title", "OptG")
    mark = browser.find_element("css selector", "#figure .mark-symbol.role-mark path")
    ActionChains(browser).move_to_element(mark).perform()
    wait(browser, lambda: browser.find_element("id", "vg-tooltip-element").is_displayed())
    said = browser.find_element("id", "vg-tooltip-element").text
    assert "OptG, " in said and " ± " in said and "ResNet-50, ImageNet: 77.01 → " in said


def test_a_method_has_a_page_of_its_own(browser: Any) -> None:
    browser.find_element("css selector", "#jump option[value=optg]").click()
    wait(browser, lambda: browser.find_element("css selector", "#method-optg h1").is_displayed())
    page = browser.find_element("id", "method-optg")
    wait(browser, lambda: len(page.find_elements("css selector", ".curves svg")) == 2)
    assert "Masks collapse when re-ranked" in page.text and "95 %" in page.text
    assert not browser.find_element("id", "results").is_displayed()
    browser.back()
    wait(browser, lambda: browser.find_element("id", "results").is_displayed())


def test_a_phone_scrolls_down_only(driver: Any, page: Path) -> None:
    resize(driver, PHONE)
    for fragment in ("", "#method-optg", "#method-one_by_n"):
        open_page(driver, page, fragment)
        assert driver.execute_script("return document.documentElement.scrollWidth") == PHONE


def test_dark_where_the_system_is_and_where_one_asks(browser: Any, page: Path) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(ground)
    browser.find_element("id", "theme").click()
    dark = browser.execute_script(ground)
    assert dark != light
    browser.execute_script("localStorage.clear()")
    prefer(browser, "dark")
    open_page(browser, page)
    assert browser.execute_script(ground) == dark


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    about = """const e = document.activeElement; const s = getComputedStyle(e);
        return [e.name || e.id || e.closest('th')?.innerText.trim() || e.getAttribute('href') || e.type, s.outlineStyle]"""
    reached, outlines = [], []
    for _ in range(40):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        name, outline = browser.execute_script(about)
        reached.append(name)
        outlines.append(outline)
    controls = ("pair", "task", "kind", "title", "level_words", "role", "words", "x", "y", "color", "front", "spread")
    wanted = {"#results", "#methods", "jump", "theme", "Quality", *controls}
    assert wanted <= set(reached), json.dumps(reached)
    assert "none" not in outlines
    unnamed = """return [...document.querySelectorAll('select, input, button')].filter((e) => !e.closest('label')
        && !e.innerText.trim() && !e.labels?.length && !e.getAttribute('aria-label')).map((e) => e.outerHTML)"""
    assert browser.execute_script(unnamed) == []


def test_nothing_is_fetched(browser: Any) -> None:
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [url for url in fetched if not url.startswith(("data:", "blob:"))] == []
