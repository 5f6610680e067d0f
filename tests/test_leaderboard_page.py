"""The page in a real browser: sorting, filtering, unfolding, the address, a phone, no error on the console."""

import shutil

import pytest

from scmf.report.leaderboard import build_leaderboard, write_leaderboard
from tests.leaderboard_pages import ledger

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    out = tmp_path_factory.mktemp("board")
    write_leaderboard(out, build_leaderboard(ledger(), leaks={}, expected={}, verdicts={}))
    return f"file://{out}/index.html"


@pytest.fixture
def page(browser, address):
    """The page at desktop width; whatever the console says fails the test."""
    opened, said = browser.new_page(viewport={"width": 1280, "height": 900}), []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(address)
    yield opened
    assert said == []
    opened.close()


PROBE = '[id="annotation.pancreas.donor.linear_probe"]'


def names(page):
    return page.locator(f"{PROBE} tr.row:visible td.who button").all_inner_texts()


def test_a_click_sorts_by_number_and_another_one_turns_it(page):
    head = page.locator(f"{PROBE} th", has_text="accuracy")
    head.locator("button").click()
    down = names(page)
    assert head.get_attribute("aria-sort") == "descending" and down[0] == "HVG" and down[-1] == "shuffled labels"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending" and names(page) == down[::-1]
    page.locator(f"{PROBE} th", has_text="method").locator("button").click()
    assert names(page) == sorted(names(page), key=str.lower)
    assert head.get_attribute("aria-sort") is None


def test_what_is_absent_stays_last_either_way(page):
    head = page.locator(f"{PROBE} th", has_text="parameters")
    for _ in range(2):
        head.locator("button").click()
        assert names(page)[0] == "geneformer mini, pretrained"


def test_filters_work_and_stand_in_the_address(page, address):
    page.select_option("select[name=benchmark]", "perturbation")
    assert page.locator("section.board:visible").count() == 1
    assert "benchmark=perturbation" in page.url and "in 1 tables" in page.inner_text("#count")
    page.fill("#search", "no change")
    assert page.locator("tr.row:visible").filter(has_text="no change").count() >= 1
    page.fill("#search", "nothing of the kind")
    assert page.locator("#empty").is_visible()
    page.click("#reset")
    assert page.locator("section.board:visible").count() > 1 and not page.locator("#empty").is_visible()
    page.goto(f"{address}#benchmark=gene_network")
    assert page.locator("section.board:visible").count() == 1
    assert page.input_value("select[name=benchmark]") == "gene_network"


def test_a_row_unfolds_to_its_command_and_provenance_by_the_keyboard(page):
    button = page.locator(f"{PROBE} td.who button").first
    button.focus()
    page.keyboard.press("Enter")
    more = page.locator(f"#{button.get_attribute('aria-controls')}")
    assert more.is_visible() and button.get_attribute("aria-expanded") == "true"
    said = more.inner_text()
    assert "scmf evaluate runs/x" in said and "c" * 40 in said and "a" * 64 in said and "numpy 2.4.6" in said
    page.locator(f"{PROBE} th", has_text="accuracy").locator("button").click()
    assert more.is_visible()  # it goes along with its row
    button.click()
    assert not more.is_visible()


@pytest.mark.parametrize("width", [375, 768, 1280])
def test_the_page_itself_never_scrolls_sideways(browser, address, width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(address)
    page.locator("td.who button").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_every_control_has_a_name_and_every_picture_a_text(page):
    assert page.locator("img:not([alt])").count() == 0 and page.locator("img[alt='']").count() == 0
    for control in page.locator("select, input").all():
        assert control.evaluate("e => e.labels.length") == 1
    for button in page.locator("button").all():
        assert button.evaluate("e => e.textContent.trim().length") > 0
    assert page.evaluate("[...document.images].every(i => i.loading === 'lazy')")
    assert page.locator("h1").count() == 1 and page.evaluate("document.documentElement.lang") == "en"


def test_names_of_cells_cannot_become_markup(page):
    assert page.locator("section.board b b").count() == 0
