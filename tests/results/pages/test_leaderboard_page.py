"""The page in a real browser: sorting, filtering, unfolding, the address, a phone, no error on the console."""

import shutil

import pytest

from scmf.experiments.leaderboard import known_leaks
from scmf.results.pages.leaderboard import build_leaderboard, write_leaderboard
from tests.fixtures.leaderboard_pages import ledger

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


def write(folder, results):
    write_leaderboard(folder, build_leaderboard(results, leaks=known_leaks(), expected={}, verdicts={}))
    return f"file://{folder}/index.html"


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
    return write(tmp_path_factory.mktemp("board"), ledger())


def listen(page):
    """What the console and the network of a page say that nobody wants to hear."""
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(request.url))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url))
    return said


@pytest.fixture
def page(browser, address):
    """The page at desktop width; whatever the console says fails the test."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    said = listen(opened)
    opened.goto(address)
    yield opened
    assert said == []
    opened.close()


PROBE = '[id="annotation.pancreas.donor.linear_probe"]'


def names(page):
    return page.locator(f"{PROBE} tbody .who button").filter(visible=True).all_inner_texts()


def head(page, text, table=PROBE):
    return page.locator(f"{table} thead th", has_text=text)


def test_a_click_sorts_by_number_and_another_one_turns_it(page):
    accuracy = head(page, "accuracy")
    accuracy.locator("button").click()
    down = names(page)
    assert accuracy.get_attribute("aria-sort") == "descending"
    assert down[0] == "HVG" and down[-1] == "shuffled labels (chance)"
    accuracy.locator("button").click()
    assert accuracy.get_attribute("aria-sort") == "ascending" and names(page) == down[::-1]
    head(page, "method").locator("button").click()
    assert names(page) == sorted(names(page), key=str.lower)
    assert accuracy.get_attribute("aria-sort") is None


def test_equal_numbers_keep_their_order_and_what_is_absent_stays_last(page):
    parameters, before = head(page, "parameters"), names(page)
    for _ in range(2):
        parameters.locator("button").click()
        assert names(page) == ["geneformer mini, pretrained", *(n for n in before if not n.startswith("geneformer"))]


def test_filters_work_and_stand_in_the_address(page, address):
    page.select_option("select[name=benchmark]", "perturbation")
    assert page.locator("section.scores:visible").count() == 1
    assert "benchmark=perturbation" in page.url and "in 1 table" in page.inner_text("#count")
    assert page.locator("figure:visible").count() == 1  # pictures go along
    page.fill("#search", "no change")
    assert page.locator("section tr.row:visible").all_inner_texts()[0].startswith("no change")
    assert page.inner_text("#count") == "1 row in 1 table" and "q=no+change" in page.url
    page.fill("#search", "nothing of the kind")
    assert page.locator("#empty").is_visible()
    page.click("#reset")
    assert page.locator("section.scores:visible").count() > 1 and not page.locator("#empty").is_visible()
    page.goto(f"{address}#benchmark=gene_network&dataset=pancreas&protocol=unheard-of")
    assert page.locator("section.scores:visible").count() == 1
    assert (
        page.input_value("select[name=benchmark]") == "gene_network" and page.input_value("select[name=protocol]") == ""
    )


def test_a_link_to_a_table_shows_it_whatever_the_filters_were(page, address):
    page.goto(f"{address}#benchmark=gene_network")
    page.locator("details.block", has_text="Annotation").locator("summary").click()
    page.locator("details.block thead a", has_text="linear probe").click()
    assert page.locator(PROBE).is_visible() and page.input_value("select[name=benchmark]") == ""
    assert page.locator(PROBE).evaluate("e => Math.abs(e.getBoundingClientRect().top) < 300")


def test_a_row_unfolds_to_its_command_and_provenance_by_the_keyboard(page):
    button = page.locator(f"{PROBE} tbody .who button").first
    button.focus()
    page.keyboard.press("Enter")
    more = page.locator(f"#{button.get_attribute('aria-controls')}")
    assert more.is_visible() and button.get_attribute("aria-expanded") == "true"
    said = more.inner_text()
    assert "scmf evaluate runs/x" in said and "c" * 40 in said and "a" * 64 in said and "numpy 2.4.6" in said
    assert "a definition" in said and "seed" in said
    head(page, "accuracy").locator("button").click()
    assert more.is_visible()  # it goes along with its row
    page.fill("#search", "no such row")
    assert not more.is_visible()
    page.fill("#search", "")
    assert more.is_visible()
    button.click()
    assert not more.is_visible()


def test_a_command_is_copied_or_at_least_selected(page):
    page.locator(f"{PROBE} tbody .who button").first.click()
    button = page.locator("button.copy").filter(visible=True).first
    button.click()
    page.wait_for_function("e => e.textContent !== 'copy'", arg=button.element_handle())
    if button.inner_text() == "selected":
        assert "scmf evaluate" in page.evaluate("getSelection().toString()")


@pytest.mark.parametrize("width", [375, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_itself_never_scrolls_sideways(browser, address, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    for button in page.locator("tbody .who button").all()[:3]:
        button.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert (sum(map(int, ink[4:-1].split(","))) > sum(map(int, paper[4:-1].split(",")))) == (scheme == "dark")
    page.close()


def test_every_control_has_a_name_and_every_picture_a_text(page):
    assert page.locator("img:not([alt])").count() == 0 and page.locator("img[alt='']").count() == 0
    for control in page.locator("select, input").all():
        assert control.evaluate("e => e.labels.length") == 1
    for kind in ("button", "summary", "a:not(:has(img))"):
        assert all(text.strip() for text in page.locator(kind).all_text_contents())
    assert page.evaluate("[...document.images].every(i => i.loading === 'lazy' && i.width && i.height)")
    assert page.locator("h1").count() == 1 and page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("th:not([scope])").count() == 0 and page.locator("main").count() == 1
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(e => +e.tagName[1])")
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


def test_without_scripts_everything_is_there(browser, address):
    page = browser.new_page(java_script_enabled=False)
    page.goto(address)
    assert page.locator("tr.more").first.is_visible() and not page.locator("nav.filters").is_visible()
    page.close()


def test_an_empty_board_opens_without_errors(browser, tmp_path):
    page = browser.new_page()
    said = listen(page)
    page.goto(write(tmp_path, []))
    assert page.locator("text=Nothing has been measured yet").is_visible() and said == []
    page.close()
