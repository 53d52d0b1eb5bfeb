"""The report in a real browser: it loads whole, asks for nothing, runs nothing, and fits on a phone."""

import copy
import shutil
from pathlib import Path

import pytest
from colours import contrast, luminance

from distill.recipe import Recipe, TargetConfig
from distill.reports.page import run_page

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright; install the extra `browser`")

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium; apt-get install chromium")

SCRIPT = '<script>document.title = "taken"; alert(1)</script><img src="x" onerror="alert(2)">'
HISTORY = [{"step": step, "loss_kd": 1 / step} for step in (1, 2, 3)]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        # Chromium's own sandbox does not start in most containers; what it opens here is our own page.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(toy_scores, tmp_path_factory) -> Path:
    """A report whose second prompt, and all that follows on it, is a script."""
    scores = copy.deepcopy(toy_scores)
    hostile = scores["examples"]["prompts"][1]
    hostile["prompt"] = SCRIPT
    for of_model in hostile["models"].values():
        of_model |= {"text": SCRIPT, "words": []}
    recipe = Recipe(output_dir="outputs/try", target=TargetConfig(op="expmean", reverse_roles=True))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(run_page(recipe, scores, None, {"student": {"history": HISTORY}}), encoding="utf-8")
    return path


@pytest.fixture
def visit(browser, report):
    """A function that opens the report: (page, whatever happened on the way)."""
    contexts = []

    def open_page(width=1200, height=900, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page, events = context.new_page(), []
        page.on("console", lambda message: events.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: events.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (events.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: events.append(f"request: {request.url}"))
        page.goto(report.as_uri())
        return page, events

    yield open_page
    for context in contexts:
        context.close()


def test_it_loads_in_silence(visit, report):
    page, events = visit()
    page.wait_for_timeout(200)
    assert events == [f"request: {report.as_uri()}"]
    assert page.title() == "distill: try"


def test_the_figures_are_drawn(visit, toy_scores):
    page, _ = visit()
    charts = page.locator("svg.chart")
    assert charts.count() == 5  # occupations, two of the trade-off, next words, loss
    for chart in charts.all():
        box = chart.bounding_box()
        assert box["width"] > 300
        assert box["height"] > 100
    subjects = toy_scores["models"]["student"]["next_word_disparity"]["details"]["subjects"]
    marks = charts.first.locator("use.mark")
    assert marks.count() == 2 * len(subjects)
    width = charts.first.bounding_box()
    for mark in marks.all():
        box = mark.bounding_box()
        assert width["x"] <= box["x"] < box["x"] + box["width"] <= width["x"] + width["width"]
        assert box["height"] > 6
    assert page.locator("polyline.curve.mitigated").bounding_box()["width"] > 200


def test_a_listed_word_is_marked_and_not_by_colour_alone(visit):
    page, _ = visit()
    male, female = (page.locator(f"h4 mark.{style}").first for style in ("g0", "g1"))
    assert (male.inner_text(), female.inner_text()) == ("man", "woman")
    styles = [
        mark.evaluate("m => [getComputedStyle(m).backgroundColor, getComputedStyle(m).textDecorationStyle]")
        for mark in (male, female)
    ]
    assert styles[0][0] != styles[1][0]
    assert [style for _, style in styles] == ["solid", "dashed"]


def test_a_script_in_a_prompt_stays_text(visit):
    page, events = visit()
    page.wait_for_timeout(200)
    assert page.locator("script, img").count() == 0
    assert SCRIPT in page.locator("h4").nth(1).inner_text()
    assert page.title() == "distill: try"
    assert not [event for event in events if event.startswith(("dialog", "console", "error"))]


def test_on_a_phone_only_tables_scroll(visit):
    page, _ = visit(width=390, height=844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    table = page.locator(".scroll").first
    assert table.evaluate("box => box.scrollWidth > box.clientWidth")
    for chart in page.locator("svg.chart").all():
        assert chart.bounding_box()["width"] <= 390
    # Text keeps its size: no figure is scaled down.
    assert page.locator("svg.chart text.label").first.evaluate("t => parseFloat(getComputedStyle(t).fontSize)") >= 11


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_from_the_ground(visit, scheme):
    page, _ = visit(scheme=scheme)

    def colour(selector, name):
        return page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{name}")

    ground = colour("body", "backgroundColor")
    assert (luminance(ground) > 0.5) == (scheme == "light")
    for selector, name in (("body", "color"), (".note", "color"), ("a", "color")):
        assert contrast(colour(selector, name), ground) >= 4.5, selector
    for style in ("teacher", "plain", "mitigated"):
        assert contrast(colour(f".mark.{style}", "stroke"), ground) >= 3, style
    for style in ("g0", "g1"):
        assert contrast(colour("body", "color"), colour(f".{style}", "backgroundColor")) >= 4.5, style


def test_it_prints(visit, tmp_path):
    page, _ = visit(scheme="dark")
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.emulate_media(media="print", color_scheme="dark")
    assert luminance(page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")) > 0.5  # no black paper
    assert not page.locator("nav").is_visible()
