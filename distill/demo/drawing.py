"""What was found -> HTML for the page, in the colours of the reports; whatever is not markup already is escaped."""

import base64
import re
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from distill.base.files import PACKAGE
from distill.demo.continuing import Count, interval
from distill.demo.next_word import NextWord
from distill.demo.swapping import ListSeen, Swapped, group_places, sentence
from distill.reports.figures import bars
from distill.reports.page import marked

_ASSETS = PACKAGE / "assets"
_FOLLOWS = "follows its form"  # of an article or a possessive that a swap changed


def style_sheet() -> str:
    """The style of the page: its own rules, in the colours and with the marks of the reports."""
    report = (_ASSETS / "report" / "page.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{([^}]*)\}", report)
    shared = [line for line in report.splitlines() if re.match(r"(mark|\.g\d|\.chart) ?[.\w ,-]*\{", line)]
    own = (_ASSETS / "demo" / "page.css").read_text(encoding="utf-8")
    return f".distill {{{light}}}\n.dark .distill {{{dark}}}\n" + "\n".join(f".distill {rule}" for rule in shared) + own


def box(*parts: Markup, label: str = "") -> str:
    """The frame that every piece stands in, which gives it the colours."""
    named = Markup(' role="region" aria-label="{}"').format(label) if label else ""
    return str(Markup('<div class="distill"{}>{}</div>').format(named, Markup("").join(parts)))


def heading(title: str) -> str:
    """What the page is about."""
    return box(Markup('<h1>distill demo</h1><p class="lead">{}</p>').format(title))


def mistake(message: str) -> str:
    """A user's mistake, in its one sentence."""
    return box(Markup('<p class="mistake" role="alert">{}</p>').format(message))


def note(message: str) -> Markup:
    """Small print."""
    return Markup('<p class="note">{}</p>').format(message)


def legend(groups: Sequence[str]) -> Markup:
    """Which mark is which group's."""
    entries = Markup("").join(
        Markup('<li><mark class="g{}">{}</mark></li>').format(index % 4, group) for index, group in enumerate(groups)
    )
    return Markup('<ul class="legend">{}<li class="muted">words of the list</li></ul>').format(entries)


# -------------------------------------------------------------------------------------------------------- next word


def next_word_page(found: Sequence[NextWord], groups: Sequence[str], prompt: str) -> str:
    """Bars on one scale, the ratios in words, and the likeliest tokens of each model."""
    rows = [
        (
            f"{one.title}: {one.said}",
            [(f"g{g % 4}", group, mass) for g, (group, mass) in enumerate(zip(groups, one.masses, strict=True))],
        )
        for one in found
    ]
    chart = bars(rows, f"Probability of each group's words after: {prompt}")
    parts = [Markup("<h3>The words of each group, after “{} …”</h3>").format(prompt), chart]
    if any(one.compared for one in found):
        cells = [
            [one.title, one.compared_said, ", ".join(f"{word} {_percent(p)}" for word, p in one.compared)]
            for one in found
        ]
        words = " and ".join(word for word, _ in found[0].compared)
        parts += [Markup("<h3>{} alone</h3>").format(words), _table(["model", "ratio", "probabilities"], cells)]
    parts += [
        Markup("<h3>The ten likeliest next words</h3>"),
        legend(groups),
        Markup('<div class="columns">{}</div>').format(Markup("").join(_likeliest(one, groups) for one in found)),
        note("Words are tokens here: one that is cut off stands behind dots. Percentages are of all next words."),
    ]
    return box(*parts, label="Next word")


def _likeliest(one: NextWord, groups: Sequence[str]) -> Markup:
    lines = Markup("").join(
        Markup("<li>{}<span>{}</span></li>").format(
            token.text if token.group is None else marked(token.text, [[0, len(token.text), token.group]], groups),
            _percent(token.probability),
        )
        for token in one.likeliest
    )
    return Markup("<div><h4>{}</h4><ol>{}</ol></div>").format(one.title, lines)


# --------------------------------------------------------------------------------------------------------- continue


def count_page(count: Count, groups: Sequence[str], rule: str) -> str:
    """Whom the texts so far speak of, and the newest of them."""
    if not count.newest:
        return box(note("Nothing is written yet."))
    total = count.total
    rows = []
    for place, name in enumerate([*groups, "tie", "none"]):
        cells = [_counted(int(of_model[place]), total) for of_model in count.texts.values()]
        rows.append([name, *cells])
    behind = "one prompt" if len(count.prompts) == 1 else f"{len(count.prompts)} prompts"
    told = f"{total} texts of each model so far, behind {behind}; in brackets 95% intervals (Wilson)"
    columns = Markup("").join(
        Markup("<div><h4>{}</h4>{}</div>").format(
            title,
            Markup("").join(
                Markup('<p class="text"><span class="muted">{}</span>{}</p>').format(
                    prompt, marked(one.text, one.words, groups)
                )
                for prompt, one in texts
            ),
        )
        for title, texts in count.newest.items()
    )
    table = [
        Markup("<h3>Whom they speak of</h3>"),
        _table(["texts", *count.texts], rows),
        note(f"{told}. A text counts for the group of which it has more words, by {rule}."),
    ]
    parts = [
        *(table if total else ()),
        Markup("<h3>The newest texts</h3>"),
        legend(groups),
        Markup('<div class="columns texts">{}</div>').format(columns),
    ]
    return box(*parts, label="Continuations")


def _counted(number: int, total: int) -> str:
    low, high = interval(number, total)
    return f"{number} ({number / total:.0%} [{low:.0%}, {high:.0%}])"


# ------------------------------------------------------------------------------------------------------------- swap


def swap_page(swapped: Swapped, groups: Sequence[str]) -> str:
    """Both texts side by side, the edits marked, and the result as files."""
    names = [*groups, _FOLLOWS]
    sides = [
        Markup('<div><h4>{}</h4><p class="text lines">{}</p></div>').format(
            heading, marked(text, group_places(places, len(groups)), names)
        )
        for heading, text, places in (
            ("Text", swapped.text, swapped.edits),
            ("Counterfactual", swapped.counterfactual, swapped.counterfactual_edits),
        )
    ]
    used = names if any(group < 0 for _, _, group in swapped.edits) else groups
    files = Markup(" · ").join(
        (
            _download("counterfactual.txt", "text/plain", swapped.counterfactual),
            _download("counterfactual.jsonl", "application/jsonl", swapped.json),
        )
    )
    return box(
        Markup('<p class="lead">{}</p>').format(f"{sentence(swapped)}."),
        legend(used),
        Markup('<div class="columns">{}</div>').format(Markup("").join(sides)),
        Markup("<p>As files: {}</p>").format(files),
        Markup("<details><summary>As JSON</summary><pre>{}</pre></details>").format(swapped.json),
        label="Counterfactual",
    )


def _download(name: str, kind: str, content: str) -> Markup:
    """A link that holds its file itself: nothing is written on the server."""
    data = base64.b64encode(content.encode(errors="replace")).decode()
    link = Markup('<a download="{}" href="data:{};charset=utf-8;base64,{}">{}</a>')
    return link.format(name, kind, data, name)


def list_page(seen: ListSeen, name: str) -> str:
    """What is wrong with a word list or looks so, each with its line."""
    if seen.mistakes:
        number = len(seen.mistakes)
        heading = f"{name}: {number} mistake{'s' * (number > 1)} to mend; nothing is swapped by it"
        return box(Markup('<p class="mistake" role="alert">{}</p>').format(heading), _items(seen.mistakes))
    assert seen.wordlist is not None  # or else it had a mistake
    rows = len(seen.wordlist.rows)
    groups = ", ".join(seen.wordlist.groups)
    parts = [note(f"{name}: {rows} row{'s' * (rows > 1)}, groups {groups}, no mistake.")]
    if seen.suspicions:
        parts += [Markup("<p>Allowed, but it looks wrong:</p>"), _items(seen.suspicions)]
    return box(*parts)


# ----------------------------------------------------------------------------------------------------------- report


def report_page(address: str, name: str) -> str:
    """The page of a run in a frame of its own, in which nothing may run."""
    frame = Markup('<iframe class="report" title="Report of {}" src="{}" sandbox=""></iframe>')
    return box(frame.format(name, address))


# ----------------------------------------------------------------------------------------------------------- pieces


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(heading) for heading in headings)
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            first, Markup("").join(Markup("<td>{}</td>").format(cell) for cell in rest)
        )
        for first, *rest in rows
    )
    table = Markup('<div class="scroll" tabindex="0"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>')
    return table.format(head, body)


def _items(lines: Iterable[str]) -> Markup:
    return Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(line) for line in lines))


def _percent(probability: float) -> str:
    return f"{100 * probability:.3g}%"
