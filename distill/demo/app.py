"""The page: what stands in which tab, and what answers when something is asked. It lays out, and computes nothing.

gradio is imported when a page is built, so that everything else here does without it.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from distill.base.errors import UserError
from distill.demo import drawing
from distill.demo.continuing import LARGEST_SEED, MOST_SAMPLES, MOST_TOKENS, Asked, Count, write
from distill.demo.loaded import Loaded
from distill.demo.next_word import MOST_CHARACTERS, checked_prompt, choices, next_words
from distill.demo.swapping import ListSeen, bundled_names, shifts, swap, uploaded
from distill.metrics.polarity import group_counter
from distill.text.wordlist import load_wordlist

_EXAMPLE = "She told her father that the blame was hers.\nThe actress met an earl, and he showed her the ladies' room."
_OLDEST = (6, 20)  # of gradio, whose older versions lack what the page asks for
_TO_MAKE_IT_RUN = "pip install 'distill[demo]'"
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]
_SESSION_KEPT = 3600  # seconds behind the last visit
_QUIETLY: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def require_gradio() -> Any:
    """The module gradio, told to report to nobody.

    Raises:
        UserError: it is not installed, or older than the page can do with.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError:
        raise UserError(f"the page needs gradio, which is not installed: {_TO_MAKE_IT_RUN}") from None
    version = getattr(gradio, "__version__", "")
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < _OLDEST:
        least = ".".join(map(str, _OLDEST))
        raise UserError(f"the page needs gradio {least} or later, and {version} is installed: {_TO_MAKE_IT_RUN}")
    return gradio


def look() -> dict[str, Any]:
    """Theme and style of the page, as gradio takes them: with the fonts of whoever looks at it, none are loaded."""
    gradio = require_gradio()
    theme = gradio.themes.Default(primary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_MONO)
    # The theme's own are too faint to read, small print above all.
    strong = {"button_primary_background_fill": "*primary_700", "button_primary_background_fill_dark": "*primary_700"}
    strong |= {"block_info_text_color": "*neutral_600", "block_info_text_color_dark": "*neutral_300"}
    strong |= {"body_text_color_subdued": "*neutral_600", "body_text_color_subdued_dark": "*neutral_300"}
    strong |= {"block_label_text_color": "*neutral_700", "block_label_text_color_dark": "*neutral_200"}
    return {"theme": theme.set(**strong), "css": drawing.style_sheet()}


def build(loaded: Loaded, reports: dict[str, str]) -> Any:
    """The page over models.

    Args:
        loaded: The models.
        reports: Name of a run -> where its report is to be had, for the frame that shows it.

    Raises:
        UserError: gradio is not installed.
    """
    gradio = require_gradio()
    groups = loaded.swapper.wordlist.groups
    with gradio.Blocks(title="distill demo", analytics_enabled=False) as page:
        gradio.HTML(_heading(loaded), padding=False)
        with gradio.Tabs(overflow_behavior="wrap"):
            with gradio.Tab("Next word"):
                _next_word(gradio, page, loaded)
            with gradio.Tab("Continue"):
                _continue(gradio, loaded)
            with gradio.Tab("Swap"):
                _swap(gradio, loaded)
            with gradio.Tab("Report"):
                _report(gradio, reports)
        gradio.HTML(
            drawing.box(
                drawing.note(
                    f"The word list “{loaded.swapper.wordlist.name}” names {len(groups)} groups, {', '.join(groups)}: "
                    "nothing here says anything about anybody else. The bias is mitigated as far as it is measured, "
                    "not removed. What you type stays on the machine that serves this page."
                )
            ),
            padding=False,
        )
    page.queue(default_concurrency_limit=16, api_open=False)
    return page


def _heading(loaded: Loaded) -> str:
    names = ", ".join(source.title for source in loaded.shown.sources)
    return drawing.heading(f"{names}, side by side")


def _answering(function: Callable[..., str]) -> Callable[..., str]:
    """The same with a user's mistake as its answer, in its one sentence."""

    @wraps(function)
    def answer(*arguments: Any) -> str:
        try:
            return function(*arguments)
        except UserError as error:
            return drawing.mistake(str(error))

    return answer


# -------------------------------------------------------------------------------------------------------- next word


def _next_word(gradio: Any, page: Any, loaded: Loaded) -> None:
    templates = choices(loaded.shown.prompts)
    subjects = list(templates)
    patterns = list(templates[subjects[0]])
    first = templates[subjects[0]][patterns[0]]
    with gradio.Row():
        subject = gradio.Dropdown(subjects, value=subjects[0], label="Subject", num_choices_shown=None)
        template = gradio.Dropdown(patterns, value=patterns[0], label="Template")
    prompt = gradio.Textbox(first, label="Prompt", lines=1, max_lines=4, info="Choose one above, or type your own.")
    strength = gradio.Slider(
        0, 1, value=1, step=0.05, label="Strength of the target",
        info=f"What students learn from: at 0 what “{loaded.shown.teacher.title}” expects, at 1 the whole mitigation "
        f"({loaded.shown.target.op}{', roles reversed' if loaded.shown.target.reverse_roles else ''}).",
    )  # fmt: skip
    ask = gradio.Button("Show", variant="primary")
    found = gradio.HTML(padding=False)

    @_answering
    def show(text: str, strong: float) -> str:
        groups = loaded.swapper.wordlist.groups
        return drawing.next_word_page(next_words(loaded, text, strong), groups, checked_prompt(text))

    def chosen(name: str, pattern: str, strong: float) -> tuple[Any, str, str]:
        known = templates[name]
        kept = pattern if pattern in known else next(iter(known))
        return gradio.Dropdown(list(known), value=kept), known[kept], show(known[kept], strong)

    def linked(strong: float, request: Any) -> tuple[str, str]:
        given = dict(request.query_params).get("prompt")
        if given is None:
            return first, show(first, strong)
        return given[:MOST_CHARACTERS], show(given, strong)

    for choice in (subject, template):
        choice.input(chosen, [subject, template, strength], [template, prompt, found], **_QUIETLY)
    ask.click(show, [prompt, strength], found, **_QUIETLY)
    prompt.submit(show, [prompt, strength], found, **_QUIETLY)
    strength.change(show, [prompt, strength], found, trigger_mode="always_last", **_QUIETLY)
    linked.__annotations__["request"] = gradio.Request  # gradio looks for the class itself
    page.load(linked, strength, [prompt, found], **_QUIETLY)


# --------------------------------------------------------------------------------------------------------- continue


def _continue(gradio: Any, loaded: Loaded) -> None:
    groups = loaded.swapper.wordlist.groups
    _, rule = group_counter(loaded.swapper.wordlist, loaded.swapper)
    first = next(iter(next(iter(choices(loaded.shown.prompts).values())).values()))
    prompt = gradio.Textbox(first, label="Prompt to continue", lines=1, max_lines=4)
    with gradio.Row():
        samples = gradio.Slider(1, MOST_SAMPLES, value=8, step=1, label="Texts of each model")
        tokens = gradio.Slider(1, MOST_TOKENS, value=24, step=1, label="Length of a text, in tokens")
    with gradio.Accordion("Sampling", open=False), gradio.Row():
        temperature = gradio.Slider(0.1, 2, value=1, step=0.05, label="Temperature")
        top_p = gradio.Slider(0.05, 1, value=1, step=0.05, label="Top-p")
        seed = gradio.Number(0, label="Seed", precision=0, minimum=0, maximum=LARGEST_SEED)
    with gradio.Row():
        more = gradio.Button("Write", variant="primary")
        stop = gradio.Button("Stop")
        anew = gradio.Button("Count from the start")
    found = gradio.HTML(drawing.count_page(Count(), groups, rule), padding=False)
    count = gradio.State(Count(), time_to_live=_SESSION_KEPT)

    def go_on(text: str, *asked_and_count: Any) -> Iterator[tuple[str, Count]]:
        *asked, before = asked_and_count
        try:
            for after in write(loaded, text, Asked(*asked), before):
                yield drawing.count_page(after, groups, rule), after
        except UserError as error:
            yield drawing.mistake(str(error)), before

    inputs = [prompt, samples, tokens, temperature, top_p, seed, count]
    writing = [
        more.click(go_on, inputs, [found, count], **_QUIETLY),
        prompt.submit(go_on, inputs, [found, count], **_QUIETLY),
    ]
    stop.click(None, cancels=writing, api_visibility="private")
    anew.click(
        lambda: (drawing.count_page(Count(), groups, rule), Count()), None, [found, count], cancels=writing, **_QUIETLY
    )


# ------------------------------------------------------------------------------------------------------------- swap


def _swap(gradio: Any, loaded: Loaded) -> None:
    names = bundled_names(loaded.shown.wordlist)
    text = gradio.Textbox(_EXAMPLE, label="Text", lines=4, max_lines=12)
    with gradio.Row():
        name = gradio.Dropdown(names, value=names[0], label="Word list")
        own = gradio.File(label="or a list of your own (TSV, at most 1 MB)", file_types=[".tsv", ".txt"], height=150)
    own.async_move_resource_to_block_cache = _no_links(own.async_move_resource_to_block_cache)
    about = gradio.HTML(padding=False)
    first = shifts(loaded.swapper.wordlist)
    shift = gradio.Radio(first, value=first[0], label="Each word becomes one of", visible=len(first) > 1)
    go = gradio.Button("Swap", variant="primary")
    found = gradio.HTML(padding=False)

    def other_list(chosen: str, file: str | None) -> tuple[str, Any, str]:
        try:
            seen, called = _list_of(chosen, file, names)
        except UserError as error:
            return drawing.mistake(str(error)), gradio.Radio(visible=False), ""
        if seen.wordlist is None:
            return drawing.list_page(seen, called), gradio.Radio(visible=False), ""
        known = shifts(seen.wordlist)
        return drawing.list_page(seen, called), gradio.Radio(known, value=known[0], visible=len(known) > 1), ""

    @_answering
    def both(content: str, chosen: str, file: str | None, which: str) -> str:
        seen, called = _list_of(chosen, file, names)
        if seen.wordlist is None:
            return drawing.list_page(seen, called)
        known = shifts(seen.wordlist)
        number = known.index(which) + 1 if which in known else 1
        return drawing.swap_page(swap(content, seen.wordlist, number), seen.wordlist.groups)

    name.input(other_list, [name, own], [about, shift, found], **_QUIETLY)
    own.change(other_list, [name, own], [about, shift, found], **_QUIETLY)
    go.click(both, [text, name, own, shift], found, **_QUIETLY)


def _list_of(chosen: str, file: str | None, names: Sequence[str]) -> tuple[ListSeen, str]:
    """The list that is meant, and what it is called: that of the user, else the chosen one."""
    if file is not None:
        path = Path(file)
        return uploaded(path.read_bytes(), path.name), path.name
    if chosen not in names:
        raise UserError(f"there is no word list {chosen}; choose one of: {', '.join(names)}")
    return ListSeen(load_wordlist(chosen)), chosen


def _no_links(move: Callable[[str], Any]) -> Callable[[str], Any]:
    """gradio fetches a file whose path is a link; nothing here asks the network for anything."""

    async def move_file(path: str) -> Any:
        if "://" in str(path):
            raise ValueError("a word list is a file, not a link: nothing is fetched; download it and choose the file")
        return await move(path)

    return move_file


# ----------------------------------------------------------------------------------------------------------- report


def _report(gradio: Any, reports: dict[str, str]) -> None:
    if not reports:
        gradio.HTML(
            drawing.box(drawing.note("No run is shown, so there is no report; distill score measures checkpoints.")),
            padding=False,
        )
        return
    names = list(reports)
    run = gradio.Dropdown(names, value=names[0], label="Run", visible=len(names) > 1)
    frame = gradio.HTML(drawing.report_page(reports[names[0]], names[0]), padding=False)
    run.input(lambda name: drawing.report_page(reports[name], name), run, frame, **_QUIETLY)
