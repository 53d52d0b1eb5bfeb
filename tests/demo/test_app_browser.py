"""The page in a real browser, used as a person would: every tab, by keyboard, on a phone, in the dark, and in silence.

    python tests/demo/test_app_browser.py outputs/quickstart tests/demo/screens

takes the pictures of the tabs for distill/demo/README.md.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright; install the extra `browser`")
pytest.importorskip("gradio", reason="no gradio; install the extra `demo`")

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium; apt-get install chromium")

HOSTILE = '<img src=x onerror="title=1">${document.title=2}{{3}}'
MINE = "male\tfemale\nhe\tshe\nuncle\taunt\n"
THREE = "red\tgreen\tblue\nrose\tleaf\tsky\n"


def served(run: Path, port: str = "0") -> tuple[subprocess.Popen, str]:
    """A process of `distill demo` and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "distill.cli", "demo", str(run), "--port", port, "--no-browser"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return process, process.stdout.readline().strip()


@pytest.fixture(scope="module")
def address(toy_run_folder):
    process, address = served(toy_run_folder)
    assert address, process.stderr.read()[-2000:]
    yield address
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        # Chromium's own sandbox does not start in most containers; what it opens here is our own page.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """A function that opens the page and waits for its first answer; behind the test, nothing must have gone wrong."""
    contexts, events = [], []

    def open_page(query="", width=1200, height=900, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda m: events.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: events.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (events.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: events.append(f"request: {request.url}") if abroad(request.url) else None)
        page.goto(f"{address}/{query}")
        page.locator(".distill svg.chart, .distill .mistake").first.wait_for()
        return page

    def abroad(url):
        return not url.startswith((address, "data:", "blob:", address.replace("http", "ws", 1)))

    open_page.events = events
    yield open_page
    for context in contexts:
        context.close()
    assert events == []


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def bars(page):
    return page.locator(".distill rect.bar").evaluate_all(
        "all => all.map(bar => parseFloat(bar.getAttribute('width')))"
    )


# -------------------------------------------------------------------------------------------------------- next word


def test_the_first_page_shows_an_answer_of_every_model(visit):
    page = visit()
    titles = page.locator(".distill svg.chart text.label").all_text_contents()
    assert [title.partition(":")[0] for title in titles] == [
        "teacher", "plain student", "mitigated student", "target, strength 1",
    ]  # fmt: skip
    assert len(bars(page)) == 8
    assert page.locator(".distill ol").count() == 4
    assert page.locator(".distill ol li").count() == 40
    assert page.get_by_label("Prompt Choose").input_value() == "The nurse said that"


def test_an_occupation_and_a_template_make_the_prompt(visit):
    page = visit()
    subject = page.get_by_label("Subject")
    subject.click()
    subject.fill("dentist")
    page.get_by_role("option", name="dentist").click()
    page.get_by_text("after “The dentist said that …”").wait_for()
    template = page.get_by_label("Template")
    template.click()
    page.get_by_role("option", name="picked up").click()
    page.get_by_text("after “The dentist picked up …”").wait_for()
    assert page.get_by_label("Prompt Choose").input_value() == "The dentist picked up"


def test_the_slider_moves_the_target_and_nothing_else(visit):
    page = visit()
    before = bars(page)
    slider = page.get_by_role("slider", name="Strength")
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    page.get_by_text("target, strength 0:").first.wait_for()
    after = bars(page)
    # One scale: what changes by it changes alike. At 0 the target is the teacher, at 1 its groups are even.
    assert before[6] == pytest.approx(before[7], abs=0.05)
    assert after[6:] == pytest.approx(after[:2], abs=0.05)


def test_a_prompt_of_ones_own_and_one_that_is_too_long(visit):
    page = visit()
    prompt = page.get_by_label("Prompt Choose")
    prompt.fill("The king and")
    prompt.press("Enter")
    page.get_by_text("after “The king and …”").wait_for()
    prompt.fill("x" * 2001)
    page.get_by_role("button", name="Show").click()
    assert "has 2,001 characters, and at most 2,000 are taken" in page.get_by_role("alert").inner_text()
    prompt.fill("")
    page.get_by_role("button", name="Show").click()
    page.get_by_text("there is no prompt yet").wait_for()


def test_a_script_in_a_prompt_stays_text(visit):
    page = visit()
    title = page.title()
    prompt = page.get_by_label("Prompt Choose")
    prompt.fill(HOSTILE)
    page.get_by_role("button", name="Show").click()
    page.locator(".distill h3", has_text="onerror").wait_for()
    page.wait_for_timeout(300)
    assert page.locator(".distill img").count() == 0
    assert HOSTILE in page.locator(".distill h3").first.inner_text()
    assert page.title() == title


def test_a_link_brings_a_prompt_along(visit):
    page = visit(f"?prompt={quote('The queen said that')}")
    page.get_by_text("after “The queen said that …”").wait_for()
    assert page.get_by_label("Prompt Choose").input_value() == "The queen said that"
    page = visit(f"?prompt={'x' * 2500}")
    assert "has 2,500 characters, and at most 2,000" in page.get_by_role("alert").inner_text()


# --------------------------------------------------------------------------------------------------------- continue


def test_texts_are_counted_on_and_from_the_start(visit):
    page = visit()
    tab(page, "Continue")
    page.get_by_role("button", name="Write").click()
    page.get_by_text("8 texts of each model so far, behind one prompt").wait_for()
    assert page.locator(".distill .texts > div").count() == 3
    assert page.locator(".distill .texts p").count() == 24
    rows = page.get_by_role("region", name="Continuations").locator("tbody th").all_inner_texts()
    assert rows == ["male", "female", "tie", "none"]
    page.get_by_label("Prompt to continue").fill("The king said that")
    page.get_by_role("button", name="Write").click()
    page.get_by_text("16 texts of each model so far, behind 2 prompts").wait_for()
    page.get_by_role("button", name="Count from the start").click()
    page.get_by_text("Nothing is written yet").wait_for()


def test_two_people_do_not_see_each_others_counts_nor_wait(visit):
    one, other = visit(), visit()
    tab(one, "Continue")
    one.get_by_label("Texts of each model").first.fill("64")
    one.get_by_role("button", name="Write").click()
    one.get_by_text("texts of each model so far").wait_for()
    other.get_by_label("Prompt Choose").fill("The queen said")
    other.get_by_role("button", name="Show").click()
    other.get_by_text("after “The queen said …”").wait_for()
    assert one.get_by_text("64 texts of each model so far").count() == 0  # the other was served in between
    tab(other, "Continue")
    assert other.get_by_text("Nothing is written yet").count() == 1
    one.get_by_role("button", name="Stop").click()


# ------------------------------------------------------------------------------------------------------------- swap


def swapped(page):
    return page.locator(".distill .lines").all_inner_texts()


def test_a_text_is_swapped_and_given_as_files(visit):
    page = visit()
    tab(page, "Swap")
    page.get_by_label("Text", exact=True).fill(f"She saw him. {HOSTILE}\nA king.")
    page.get_by_role("button", name="Swap").click()
    page.get_by_text("3 edits").wait_for()
    assert swapped(page) == [f"She saw him. {HOSTILE}\nA king.", f"He saw her. {HOSTILE}\nA queen."]
    with page.expect_download() as download:
        page.get_by_role("link", name="counterfactual.txt").click()
    assert Path(download.value.path()).read_text(encoding="utf-8") == swapped(page)[1]
    page.get_by_text("As JSON").click()
    assert '"counterfactual": "A queen."' in page.locator(".distill pre").inner_text()


def upload(page, name, content):
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "text/plain", "buffer": content})


def test_a_list_of_ones_own_and_its_mistakes_by_line(visit):
    page = visit()
    tab(page, "Swap")
    upload(page, "mine.tsv", MINE.encode())
    page.get_by_text("mine.tsv: 2 rows, groups male, female, no mistake").wait_for()
    page.get_by_label("Text", exact=True).fill("Her uncle: he.")
    page.get_by_role("button", name="Swap").click()
    page.get_by_text("2 edits").wait_for()
    assert swapped(page)[1] == "Her aunt: she."
    page.get_by_label("Clear").first.click() if page.get_by_label("Clear").count() else page.get_by_label(
        "Remove"
    ).click()
    upload(page, "wrong.tsv", b"male\tfemale\nhe\tshe\nking\n")
    page.get_by_text("wrong.tsv: 1 mistake to mend").wait_for()
    assert "wrong.tsv, line 3" in page.locator(".distill ul:not(.legend) li").first.inner_text()


def test_more_than_two_groups_give_a_choice(visit):
    page = visit()
    tab(page, "Swap")
    assert page.get_by_role("radio").count() == 0
    upload(page, "three.tsv", THREE.encode())
    page.get_by_role("radio", name="red to blue").wait_for()
    page.get_by_label("Text", exact=True).fill("A rose.")
    for choice, wanted in (("red to green", "A leaf."), ("red to blue", "A sky.")):
        page.get_by_role("radio", name=choice).check()
        page.get_by_role("button", name="Swap").click()
        page.get_by_text(wanted, exact=True).wait_for()


def test_a_list_that_is_too_large_is_refused_in_a_sentence(visit, address):
    page = visit()
    tab(page, "Swap")
    upload(page, "big.tsv", b"x" * 1_100_000)
    page.get_by_text("big.tsv: larger than 1 MB; is it the right file?").wait_for()
    page.get_by_label("Clear").or_(page.get_by_label("Remove")).first.click()
    upload(page, "huge.tsv", b"x" * 5_000_000)  # gradio's own words, before it is read
    page.get_by_text("exceed the maximum allowed size").first.wait_for()
    visit.events.clear()  # gradio asks for the progress of a file that it does not send


# ----------------------------------------------------------------------------------------------------------- report


def test_the_report_is_shown_in_the_same_window(visit):
    page = visit()
    tab(page, "Report")
    page.frame_locator("iframe.report").get_by_role("heading", name="The report").wait_for()


# ------------------------------------------------------------------------------------------------------ every reader


def test_everything_is_reached_by_keyboard_alone(visit):
    page = visit()
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(e => e.getAttribute('aria-label') || e.labels?.[0]?.innerText.trim() || e.innerText?.trim() || "
                "e.id)(document.activeElement)"
            )
        )
    words = " | ".join(filter(None, reached))
    for name in ("Next word", "Subject", "Template", "Prompt", "Strength", "Show"):
        assert name in words, f"{name} is not among {words}"
    page.get_by_role("tab", name="Next word").focus()
    page.keyboard.press("Tab")  # to the next tab
    page.get_by_role("tab", name="Continue").focus()
    page.keyboard.press("Enter")
    write = page.get_by_role("button", name="Write")
    write.focus()
    page.keyboard.press("Enter")
    page.get_by_text("8 texts of each model so far").wait_for()


def test_a_phone_shows_it_without_scrolling_sideways(visit):
    page = visit(width=390, height=844)
    for name, button in (("Next word", "Show"), ("Continue", "Write"), ("Swap", "Swap"), ("Report", None)):
        tab(page, name)
        if button:
            page.get_by_role("button", name=button, exact=True).click()
        page.wait_for_timeout(1500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        for box in page.locator(".distill:visible").all():
            place = box.bounding_box()
            assert place["x"] >= 0, name
            assert place["x"] + place["width"] <= 391, name
        # A figure cuts off what it has no room for.
        behind = "all => all.map(t => t.getBoundingClientRect().right - t.closest('svg').getBoundingClientRect().right)"
        assert all(pixels <= 0 for pixels in page.locator(".distill svg.chart text:visible").evaluate_all(behind)), name


# The colour of the nearest ground that is not transparent.
GROUND = """e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (c !== 'rgba(0, 0, 0, 0)' && c !== 'transparent') return c; } return 'rgb(255, 255, 255)'; }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_told_from_the_ground(visit, scheme):
    from colours import contrast, luminance  # on pytest's path, not on that of the script that takes pictures

    page = visit(scheme=scheme)
    page.wait_for_timeout(300)
    ground = page.locator(".distill").first.evaluate(GROUND)
    assert (luminance(ground) > 0.5) == (scheme == "light")
    for selector in (
        ".distill h3",
        ".distill .note",
        ".distill ol li",
        ".distill mark.g0",
        ".distill mark.g1",
        "label span",
    ):
        element = page.locator(f"{selector}:visible").first
        colour = element.evaluate("e => getComputedStyle(e).color")
        assert contrast(colour, element.evaluate(GROUND)) >= 4.5, selector
    for group in ("g0", "g1"):
        fill = page.locator(f".distill rect.{group}").first.evaluate("e => getComputedStyle(e).fill")
        assert contrast(fill, ground) >= 3, group
    button = page.get_by_role("button", name="Show")
    assert contrast(button.evaluate("e => getComputedStyle(e).color"), button.evaluate(GROUND)) >= 4.5


# ----------------------------------------------------------------------------------------------------------- pictures


def take(run: Path, folder: Path) -> None:
    """A picture of each tab of the page over a run, and the first as a phone shows it in the dark."""
    process, address = served(run)
    try:
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1000, "height": 900})
            page.goto(address)
            page.locator(".distill svg.chart").wait_for()
            page.screenshot(path=folder / "next-word.png")
            tab(page, "Continue")
            page.get_by_role("button", name="Write").click()
            page.get_by_text("8 texts of each model so far").wait_for()
            page.screenshot(path=folder / "continue.png")
            tab(page, "Swap")
            page.get_by_role("button", name="Swap", exact=True).click()
            page.get_by_text("edits.").wait_for()
            page.screenshot(path=folder / "swap.png")
            tab(page, "Report")
            page.frame_locator("iframe.report").get_by_role("heading").first.wait_for()
            time.sleep(0.5)
            page.screenshot(path=folder / "report.png")
            phone = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
            phone.goto(address)
            phone.locator(".distill svg.chart").wait_for()
            phone.screenshot(path=folder / "phone-dark.png")
            browser.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


if __name__ == "__main__":
    take(*map(Path, sys.argv[1:]))
