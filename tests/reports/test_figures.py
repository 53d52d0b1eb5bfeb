"""Figures: every mark stands where its number says, nothing foreign becomes markup, neighbours do not overlap."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distill.reports.figures import (
    MARKS,
    Point,
    Scale,
    apart,
    bars,
    covering,
    curves,
    dumbbell,
    pareto_front,
    scatter,
    times,
)

HOSTILE = "</text><script>alert(\"1\")</script> & 'quoted'"
numbers = st.floats(-1e6, 1e6)


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def percent(text: str) -> float:
    assert text.endswith("%")
    return float(text[:-1])


def marks(tree: ElementTree.Element) -> list[tuple[str, float, float]]:
    """(style, x in percent, y in pixels) of every mark."""
    return [
        (use.get("class").removeprefix("mark "), percent(use.get("x")), float(use.get("y"))) for use in tree.iter("use")
    ]


def grid(tree: ElementTree.Element) -> dict[str, float]:
    """Number on an axis -> its place in percent."""
    return {t.text: percent(t.get("x")) for t in tree.iter("text") if t.get("class") == "tick"}


def test_a_dumbbell_puts_each_ratio_at_its_multiple():
    rows = [
        ("nurse", [Point(-math.log(4), -math.log(8), 0.0, "plain", "a"), Point(0.0, None, None, "mitigated", "b")]),
        ("captain", [Point(math.log(2), None, None, "plain", "c"), Point(math.log(8), None, None, "mitigated", "d")]),
    ]
    (svg,) = dumbbell(rows, "title", ("female", "male"))
    tree = parsed(svg)
    places = marks(tree)
    assert [style for style, _, _ in places] == ["plain", "mitigated", "plain", "mitigated"]
    (_, nurse, _), (_, even, _), (_, two, _), (_, eight, _) = places
    # On a logarithmic axis 4 is twice as far from even as 2, and 8 three times, on either side.
    assert (even - nurse) == pytest.approx(2 * (two - even), abs=0.05)
    assert (eight - even) == pytest.approx(3 * (two - even), abs=0.05)
    assert grid(tree)["even"] == pytest.approx(even, abs=0.01)
    interval = next(line for line in tree.iter("line") if line.get("class") == "interval plain")
    assert percent(interval.get("x1")) == pytest.approx(even - 3 * (two - even), abs=0.05)
    assert percent(interval.get("x2")) == pytest.approx(even, abs=0.01)
    assert [t.text for t in tree.iter("text") if t.get("class") == "label"] == ["nurse", "captain"]
    assert [t.text for t in tree.iter("title")] == ["a", "b", "c", "d"]


def test_many_rows_stand_in_two_halves_on_one_axis():
    rows = [(f"no. {i}", [Point(i / 10, None, None, "plain", "")]) for i in range(41)]
    first, second = map(parsed, dumbbell(rows, "title", ("", "")))
    assert (len(marks(first)), len(marks(second))) == (21, 20)
    assert grid(first) == grid(second)
    places = [x for tree in (first, second) for _, x, _ in marks(tree)]
    assert places == sorted(places)


def test_a_scatter_puts_more_to_the_right_and_higher():
    points = [
        (Point(100, 90, 110, "teacher", "t"), Point(1.0, 0.9, 1.1, "teacher", "t"), "teacher"),
        (Point(200, None, None, "plain", "p"), Point(0.5, None, None, "plain", "p"), "plain"),
    ]
    tree = parsed(scatter(points, "title", ("perplexity", "disparity")))
    (_, x1, y1), (_, x2, y2) = marks(tree)
    assert x1 < x2
    assert y1 < y2  # pixels count from the top
    assert sum("interval" in (line.get("class") or "") for line in tree.iter("line")) == 2


PLACES = st.tuples(st.integers(0, 6), st.integers(0, 6))


@given(st.lists(PLACES, max_size=12))
def test_the_front_is_what_nothing_else_beats(points):
    """Beside a count over all pairs."""

    def beaten(point) -> bool:
        return any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in points)

    assert pareto_front(points) == sorted({point for point in points if not beaten(point)})


def test_the_front_is_a_stair_that_goes_right_and_then_down():
    points = [(Point(x, None, None, "plain", ""), Point(y, None, None, "plain", ""), "a") for x, y in ((1, 3), (2, 1))]
    tree = parsed(scatter(points, "title", ("", ""), front=[(1, 3), (2, 1)]))
    (_, x1, y1), (_, x2, y2) = marks(tree)
    lines = [line for line in tree.iter("line") if line.get("class") == "front"]
    ends = [tuple(float(line.get(end).rstrip("%")) for end in ("x1", "y1", "x2", "y2")) for line in lines]
    assert ends == [pytest.approx((x1, y1, x2, y1)), pytest.approx((x2, y1, x2, y2))]


def test_curves_go_through_their_points():
    tree = parsed(curves([("plain", [(0, 1.0), (10, 0.0)]), ("mitigated", [(5, 0.5)])], "title", ("step", "loss")))
    first, second = ([tuple(map(float, p.split(","))) for p in c.get("points").split()] for c in tree.iter("polyline"))
    (x0, y0), (x1, y1) = first
    assert x0 < x1
    assert y0 < y1
    assert second == [(pytest.approx((x0 + x1) / 2, abs=0.01), pytest.approx((y0 + y1) / 2, abs=0.01))]


@pytest.mark.parametrize("draw", ["dumbbell", "scatter", "curves"])
def test_foreign_text_stays_text(draw):
    point = Point(1.0, 0.5, 2.0, "plain", HOSTILE)
    svg = {
        "dumbbell": lambda: dumbbell([(HOSTILE[:20], [point])], HOSTILE, (HOSTILE, HOSTILE))[0],
        "scatter": lambda: scatter([(point, point, HOSTILE)], HOSTILE, (HOSTILE, HOSTILE)),
        "curves": lambda: curves([("plain", [(0, 1), (1, 2)])], HOSTILE, (HOSTILE, HOSTILE)),
    }[draw]()
    tree = parsed(svg)
    assert "script" not in {element.tag for element in tree.iter()}
    assert tree.get("aria-label") == HOSTILE
    assert any(HOSTILE in (element.text or "") for element in tree.iter())


@given(numbers, numbers)
@example(0.0, 5e-324)
def test_ticks_are_few_round_and_within(low, high):
    low, high = sorted((low, high))
    ticks = Scale(low, high, 0, 100).ticks()
    assert 1 <= len(ticks) <= 8
    slack = 1e-6 * max(high - low, 1e-300)
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    steps = [b - a for a, b in pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps)) if steps else True


@given(st.floats(-15, 0), st.floats(0, 15))
def test_ratio_ticks_are_few_and_hold_even(low, high):
    ticks = Scale(low, high, 0, 100).ratio_ticks()
    assert 0.0 in ticks
    assert len(ticks) <= 8
    assert all(low <= tick <= high for tick in ticks)


@given(st.lists(st.one_of(st.none(), numbers), max_size=6), numbers)
def test_a_scale_covers_its_values_in_order(values, known):
    scale = covering([*values, known], 10, 90)
    given_values = sorted(value for value in [*values, known] if value is not None)
    places = [scale(value) for value in given_values]
    assert all(10 <= place <= 90 for place in places)
    assert places == sorted(places)


@given(st.lists(st.floats(0, 300), max_size=12), st.floats(1, 25))
def test_labels_are_moved_apart_and_keep_their_order(places, gap):
    moved = apart(places, gap, 300)
    ordered = sorted(moved)
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(ordered))
    assert all(-1e-6 <= place <= 300 for place in moved)
    assert [moved[i] for i in sorted(range(len(places)), key=lambda i: places[i])] == ordered


def test_labels_that_are_apart_stay():
    assert apart([50, 10, 30], 20, 300) == [50, 10, 30]
    assert apart([10, 10], 20, 300) == [10, 30]
    assert apart([300, 295], 20, 300) == [300, 280]


@pytest.mark.parametrize(
    ("ratio", "said"), [(1, "even"), (2, "2×"), (0.5, "2×"), (3.14159, "3.14×"), (25.4, "25×"), (1.004, "even")]
)
def test_times(ratio, said):
    assert times(math.log(ratio)) == said


def test_a_hopeless_ratio_does_not_overflow():
    assert re.fullmatch(r"\d+×", times(5000.0))


def test_every_series_has_a_shape_of_its_own():
    assert len(set(MARKS.values())) == len(MARKS)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_bars_are_as_long_as_their_shares_on_one_scale(shares):
    tree = parsed(bars([(HOSTILE, [("g0", "word", share)]) for share in shares], HOSTILE))
    widths = [percent(rect.get("width")) for rect in tree.iter("rect")]
    longest = max(shares)
    for share, width in zip(shares, widths, strict=True):
        assert width == pytest.approx(max(widths) * share / longest if longest else 0, abs=0.01)
    texts = ["".join(text.itertext()) for text in tree.iter("text")]
    assert texts == [words for share in shares for words in (HOSTILE, f"word {100 * share:.3g}%")]


def test_a_label_of_bars_is_wrapped_where_a_phone_has_no_room():
    """Each of its lines moves what stands below it."""
    long = "mitigated student, outputs/mine: 4.97 times likelier female"
    tree = parsed(bars([(label, [("g0", "word", 0.5)]) for label in ("short", long, "short")], "title"))
    lines = [[span.text for span in text.iter("tspan")] for text in tree.iter("text") if text.get("class") == "label"]
    assert lines == [["short"], ["mitigated student, outputs/mine: 4.97 times", "likelier female"], ["short"]]
    first, second, third = (float(bar.get("y")) for bar in tree.iter("rect"))
    assert (second - first, third - second) == (46 + 17, 46)  # a label, a bar, a gap; and one line more
