"""Numbers -> figures as inline SVG, without a script and without a fixed width.

Places along the width are percentages, so that a figure fills its box while its text keeps its size, on a phone as on
a desk. Colours come from the page's style sheet by class, and follow its light and dark. Series differ in the shape of
their marks (`MARKS`) as well as in colour. `alone` makes a file of a figure, with ground and colours of its own.
"""

import math
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree

from markupsafe import Markup

from distill.base.files import PACKAGE

# Style of a series -> the path of its mark, drawn around (0, 0). The page holds each once, as <path id="mark-STYLE">.
MARKS = {
    "teacher": "M-4 -4H4V4H-4Z",
    "plain": "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0 -5 0Z",
    "mitigated": "M0 -6.5L6.5 0L0 6.5L-6.5 0Z",
}
# Of a figure that is a file of its own.
STYLE_SHEET = PACKAGE / "assets" / "report" / "figure.css"
_WIDTH, _LEGEND_COLUMNS = 900, 5
_LEGEND_MARKS = MARKS | {"line": "M-8 0H10"}
_TOP, _BOTTOM = 26, 24  # Room for the numbers of an axis above and below a plot, in pixels.
_RATIO_STEPS = (1.2, 1.5, 2, 4, 10, 100, 10_000)
_MOST_TICKS = 7
_LABEL_GAP = 13  # Pixels from one label to the next.
_ONE_COLUMN = 24  # Rows that stand in one column.
_BAR = 18  # Pixels from one bar to the next.
_ON_A_PHONE = 45  # Characters of a label of bars that its width has room for.


@dataclass(frozen=True)
class Point:
    """A value with its interval, if it has one, in the style of its series; `text` says it in words.

    The style is a class of the page's style sheet, or several; `mark` is the shape in `MARKS` where it is no style's.
    """

    value: float
    low: float | None
    high: float | None
    style: str
    text: str
    mark: str = ""


@dataclass(frozen=True)
class Scale:
    """A linear map from [low, high] to [first, last], places along an axis."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        width = self.high - self.low
        return self.first + (self.last - self.first) * ((value - self.low) / width if width else 0.5)

    def ticks(self) -> list[float]:
        """Round values within, a few."""
        width = self.high - self.low
        if width < sys.float_info.min:  # no power of ten is as small
            return [self.low]
        power = 10.0 ** math.floor(math.log10(width / 4))
        step = next(power * s for s in (1, 2, 5, 10) if width / (power * s) <= _MOST_TICKS - 1)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def ratio_ticks(self) -> list[float]:
        """Logarithms of round ratios within, 0 among them."""
        for step in _RATIO_STEPS:
            unit = math.log(step)
            ticks = [k * unit for k in range(math.ceil(self.low / unit), math.floor(self.high / unit) + 1)]
            if len(ticks) <= _MOST_TICKS:
                break
        return ticks


def covering(values: Iterable[float | None], first: float, last: float, include: Sequence[float] = ()) -> Scale:
    """A scale over all values that are given, with a little room at both ends."""
    known = [value for value in (*values, *include) if value is not None]
    low, high = min(known), max(known)
    room = 0.04 * (high - low) or 0.5
    return Scale(low - room, high + room, first, last)


def times(log_ratio: float) -> str:
    """A log ratio as a multiple, whichever side is larger: `3.2×`, or `even`."""
    multiple = math.exp(min(abs(log_ratio), 20))
    return "even" if multiple < 1.005 else f"{multiple:.3g}×" if multiple < 10 else f"{multiple:.0f}×"


def dumbbell(
    rows: Sequence[tuple[str, Sequence[Point]]], title: str, ends: tuple[str, str], labels_above: bool = False
) -> list[Markup]:
    """One row a subject, its points joined by a line: log ratios on an axis of multiples.

    Args:
        rows: (label, points) from top to bottom.
        title: What the figure shows, for those who do not see it.
        ends: What lies to the left and to the right of even.
        labels_above: Put long labels above their row instead of beside it.

    Returns:
        The figure; of many rows two halves with the same axis, which may stand side by side.
    """
    points = [point for _, of_row in rows for point in of_row]
    left = 4.0 if labels_above else 38.0
    scale = covering([v for p in points for v in (p.value, p.low, p.high)], left, 97.0, include=[0.0])
    half = len(rows) if len(rows) <= _ONE_COLUMN else (len(rows) + 1) // 2
    return [
        _dumbbell_half(rows[first : first + half], title, ends, scale, labels_above)
        for first in range(0, len(rows), half)
    ]


def _dumbbell_half(
    rows: Sequence[tuple[str, Sequence[Point]]], title: str, ends: tuple[str, str], scale: Scale, labels_above: bool
) -> Markup:
    step, top = (44 if labels_above else 21), _TOP + 16
    height = top + step * len(rows)
    parts = [
        *(
            _element("rect", class_="band", x="0", y=top + step * number, width="100%", height=step)
            for number in range(1, len(rows), 2)
        ),
        _text(scale.first, 12, ends[0], "end-label"),
        _text(scale.last, 12, ends[1], "end-label", "end"),
        *_x_axis(scale, scale.ratio_ticks(), times, top - 8, height, both=True),
    ]
    for number, (label, of_row) in enumerate(rows):
        y = top + step * (number + 0.5)
        if labels_above:
            parts.append(_text(0, y - 8, label, "label"))
            y += 8
        else:
            parts.append(_text(scale.first - 2, y + 4, _shortened(label), "label", "end"))
        places = [(scale(point.value), y + 5 * _side(i, len(of_row))) for i, point in enumerate(of_row)]
        for (x, at), (next_x, next_at) in pairwise(places):
            parts.append(_line(x, at, next_x, next_at, "join"))
        parts += [_point(point, x, at, scale) for point, (x, at) in zip(of_row, places, strict=True)]
    return _figure(title, height + _BOTTOM, parts)


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of some points (x, y) that no other one is below in one and not above in the other, from left to right."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not found or y < found[-1][1]:
            found.append((x, y))
    return found


def scatter(
    points: Sequence[tuple[Point, Point, str]],
    title: str,
    names: tuple[str, str],
    label_room: float = 10.0,
    front: Sequence[tuple[float, float]] = (),
) -> Markup:
    """Points in two dimensions, each with an interval in both.

    Args:
        points: (x, y, label) of each; labels stand at the right, joined to their point by a line. They may be empty.
        title: What the figure shows, for those who do not see it.
        names: What x and y are.
        label_room: Percent of the width that labels take.
        front: Points (x, y) from left to right, each below the one before, that are joined by a dotted stair.
    """
    labelled = any(label for _, _, label in points)
    top = 34
    bottom = max(300, top + _LABEL_GAP * len(points)) if labelled else 300
    right = 100 - label_room if labelled else 96.0
    x_scale = covering([v for x, _, _ in points for v in (x.value, x.low, x.high)], 12.0, right)
    y_scale = covering([v for _, y, _ in points for v in (y.value, y.low, y.high)], bottom, top, include=[0.0])
    parts = _frame(x_scale, y_scale, names)
    for (x0, y0), (x1, y1) in pairwise(front):
        parts.append(_line(x_scale(x0), y_scale(y0), x_scale(x1), y_scale(y0), "front"))
        parts.append(_line(x_scale(x1), y_scale(y0), x_scale(x1), y_scale(y1), "front"))
    label_heights = apart([y_scale(y.value) for _, y, _ in points], _LABEL_GAP, bottom)
    for (x, y, label), label_y in zip(points, label_heights, strict=True):
        at_x, at_y = x_scale(x.value), y_scale(y.value)
        if label:
            parts.append(_line(at_x, at_y, right + 2.5, label_y, f"join {y.style}"))
            parts.append(_text(right + 3, label_y + 4, label, "label"))
        if y.low is not None and y.high is not None:
            parts.append(_line(at_x, y_scale(y.low), at_x, y_scale(y.high), f"interval {y.style}"))
        parts.append(_point(x, at_x, at_y, x_scale))
    return _figure(title, bottom + 48, parts)


def curves(
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    title: str,
    names: tuple[str, str],
    include: Sequence[float] = (),
) -> Markup:
    """Lines through points (x, y), each in the style of its series.

    Args:
        lines: (style, points from left to right).
        title: What the figure shows, for those who do not see it.
        names: What x and y are.
        include: Values that the y axis reaches in any case.
    """
    bottom, top = 200, 34
    x_scale = covering([x for _, points in lines for x, _ in points], 12.0, 96.0)
    y_scale = covering([y for _, points in lines for _, y in points], bottom, top, include)
    # In the unit square of a nested drawing, because a path knows no percentages.
    inner_x, inner_y = (Scale(s.low, s.high, *ends) for s, ends in ((x_scale, (0, 100)), (y_scale, (100, 0))))
    paths = [
        _element(
            "polyline",
            class_=f"curve {style}",
            vector_effect="non-scaling-stroke",
            points=" ".join(f"{inner_x(x):.2f},{inner_y(y):.2f}" for x, y in points),
        )
        for style, points in lines
    ]
    parts = _frame(x_scale, y_scale, names)
    inner = {"x": "12%", "y": top, "width": "84%", "height": bottom - top, "viewBox": "0 0 100 100"}
    parts.append(_element("svg", *paths, preserveAspectRatio="none", **inner))
    return _figure(title, bottom + 48, parts)


def bars(rows: Sequence[tuple[str, Sequence[tuple[str, str, float]]]], title: str) -> Markup:
    """Shares as bars from 0 on one scale, those of a row below one another under its label.

    Args:
        rows: (label, bars) from top to bottom; a bar is (style, what it is of, share from 0 to 1). What it is of and
            its share stand behind it.
        title: What the figure shows, for those who do not see it.
    """
    most = max((share for _, of_row in rows for _, _, share in of_row), default=0.0) or 1.0
    scale = Scale(0.0, most, 0.0, 62.0)  # percent of the width; the words behind a bar take the rest
    parts, y = [], 0.0
    for label, of_row in rows:
        # Text of an SVG does not wrap by itself.
        lines = [_element("tspan", line, x=0, dy=17) for line in textwrap.wrap(label, _ON_A_PHONE)]
        parts.append(_element("text", Markup(" ").join(lines), class_="label", y=f"{y - 3:.1f}"))
        y += 3 + 17 * len(lines)
        for style, what, share in of_row:
            words = f"{what} {100 * share:.3g}%"
            bar = _element("rect", class_=f"bar {style}", x="0", y=y, width=f"{scale(share):.2f}%", height=_BAR - 3)
            parts.append(_element("g", _element("title", f"{label}: {words}"), bar))
            parts.append(_text(scale(share), y + 12, words, "tick", shift=6))
            y += _BAR
        y += 8
    return _figure(title, y, parts)


def alone(figure: Markup, title: str, legend: Sequence[tuple[str, str, str]], notes: Sequence[str]) -> str:
    """A figure as an SVG file, for pages that are not ours: it has ground, colours and marks of its own, and no script.

    Args:
        figure: A figure of this module, its styles those of `STYLE_SHEET`.
        title: Its heading.
        legend: (style, mark, words) of each entry; a mark is one of `MARKS`, or `line`.
        notes: Lines below it.
    """
    height = int(ElementTree.fromstring(figure).get("height", "0"))
    head, line = 60 + 20 * -(-len(legend) // _LEGEND_COLUMNS), 16
    total = head + height + line * len(notes) + 12
    keys = []
    for place, (style, mark, words) in enumerate(legend):
        x = 26 + (_WIDTH - 36) // _LEGEND_COLUMNS * (place % _LEGEND_COLUMNS)
        y = 52 + 20 * (place // _LEGEND_COLUMNS)
        keys += [
            _element("use", href=f"#mark-{mark}", class_=f"mark {style}", x=x, y=y),
            _element("text", words, class_="label", x=x + 13, y=y + 4),
        ]
    return _element(
        "svg",
        _element("title", title),
        _element("style", Markup(STYLE_SHEET.read_text(encoding="utf-8"))),
        _element("defs", *(_element("path", id=f"mark-{name}", d=path) for name, path in _LEGEND_MARKS.items())),
        _element("rect", class_="ground", x=0.5, y=0.5, width=_WIDTH - 1, height=total - 1, rx=6),
        _element("text", title, class_="title", x=18, y=28),
        *keys,
        _element("svg", figure, x=18, y=head, width=_WIDTH - 36, height=height),
        *(_element("text", n, class_="tick", x=18, y=head + height + line * (i + 1)) for i, n in enumerate(notes)),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {total}",
        width=_WIDTH,
        height=total,
        class_="chart",
    )


def apart(places: Sequence[float], gap: float, last: float) -> list[float]:
    """Move places until neighbours are at least `gap` apart and none lies behind `last`, in the order they have."""
    moved = list(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for before, index in pairwise(order):
        moved[index] = max(moved[index], moved[before] + gap)
    for index in reversed(order):
        moved[index] = min(moved[index], last)
        last = moved[index] - gap
    return moved


# ------------------------------------------------------------------------------------------------------------ pieces


def _element(name: str, *children: str, **attributes: object) -> Markup:
    """An element; whatever is not markup already is escaped. `class_` is class, `stroke_width` is stroke-width."""
    given = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, Markup("").join(children))


def _figure(title: str, height: float, parts: Sequence[Markup]) -> Markup:
    return _element("svg", *parts, class_="chart", role="img", aria_label=title, width="100%", height=round(height))


def _text(x: float, y: float, text: str, class_: str, anchor: str = "start", shift: float = 0) -> Markup:
    """Text at x percent and y pixels, moved by some pixels to the right."""
    return _element("text", text, class_=class_, x=f"{x:.2f}%", y=f"{y:.1f}", dx=shift, text_anchor=anchor)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return _element("line", class_=class_, x1=f"{x1:.2f}%", y1=f"{y1:.1f}", x2=f"{x2:.2f}%", y2=f"{y2:.1f}")


def _point(point: Point, x: float, y: float, x_scale: Scale) -> Markup:
    """A mark with its horizontal interval, and its words for those who point at it."""
    parts = [_element("title", point.text)]
    if point.low is not None and point.high is not None:
        parts.append(_line(x_scale(point.low), y, x_scale(point.high), y, f"interval {point.style}"))
    mark = f"#mark-{point.mark or point.style}"
    parts.append(_element("use", href=mark, class_=f"mark {point.style}", x=f"{x:.2f}%", y=f"{y:.1f}"))
    return _element("g", *parts, class_="point")


def _frame(x_scale: Scale, y_scale: Scale, names: tuple[str, str]) -> list[Markup]:
    """Both axes, with their names."""
    left, right, bottom, top = x_scale.first, x_scale.last, y_scale.first, y_scale.last
    parts = [
        _text(0, 14, f"↑ {names[1]}", "end-label"),
        _text(right, bottom + 38, f"{names[0]} →", "end-label", "end"),
        *_x_axis(x_scale, x_scale.ticks(), _plain, top, bottom),
    ]
    for tick in y_scale.ticks():
        parts.append(_line(left, y_scale(tick), right, y_scale(tick), "even" if tick == 0 else "grid"))
        parts.append(_text(left - 1, y_scale(tick) + 4, _plain(tick), "tick", "end"))
    return parts


def _x_axis(
    scale: Scale, ticks: Sequence[float], words: Callable[[float], str], top: float, bottom: float, both: bool = False
) -> list[Markup]:
    """Vertical lines with their numbers below, and above too if `both`."""
    parts = []
    for tick in ticks:
        parts.append(_line(scale(tick), top, scale(tick), bottom, "even" if tick == 0 else "grid"))
        parts.append(_text(scale(tick), bottom + 16, words(tick), "tick", "middle"))
        if both:
            parts.append(_text(scale(tick), top - 4, words(tick), "tick", "middle"))
    return parts


def _side(index: int, number: int) -> float:
    """From -0.5 to 0.5: where a point of several stands above or below the middle of its row."""
    return index / (number - 1) - 0.5 if number > 1 else 0.0


def _plain(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _shortened(label: str, most: int = 22) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"
