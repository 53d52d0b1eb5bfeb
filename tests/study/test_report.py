"""What every study shows: labels, tables and the figure, from made-up results."""

import copy
import subprocess
import sys
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from study_results import made_up_results

from distill.metrics import card_dicts
from distill.study.report import (
    against_epsilon,
    cost_table,
    label,
    markdown,
    pareto,
    privacy_table,
    ratio,
    score_groups,
    set_against,
    side_effects,
    trade_off,
)


@pytest.fixture
def results():
    return copy.deepcopy(made_up_results())


def test_labels_name_half_and_text(results):
    results["cards"]["bits_per_byte"] = {"label": "bits"}  # told by the file, not by the metric of today
    for score, expected in {
        "perplexity": "perplexity",
        "next_word_disparity_held_out": "next-word disparity, held out",
        "bits_per_byte_fiction": "bits, fiction",
    }.items():
        assert label(results, score) == expected


def test_a_score_without_a_card_is_called_by_its_name(results):
    """Files of before study.json had cards, and before it told what is farther."""
    without_farther(results)
    with_cards = markdown(results)
    del results["cards"]
    assert label(results, "next_word_disparity_held_out") == "next word disparity, held out"
    assert label(results, "perplexity_fiction") == "perplexity, fiction"
    assert pareto(results) is None
    assert cells(markdown(results)) == cells(with_cards)


def cells(text: str) -> list[str]:
    """Every cell with an interval, in order of size, of the tables of a page."""
    return sorted(cell for line in text.splitlines() for cell in line.strip("| ").split(" | ") if " [" in cell)


def test_every_score_stands_in_one_table_of_values(results):
    groups = score_groups(results)
    assert list(groups) == ["Scores", "Other scores", "Halves of the occupations"]
    shown = [score for scores in groups.values() for score in scores]
    assert sorted(shown) == sorted(results["rows"][0]["metrics"])
    assert groups["Scores"] == ["corpus_disparity", "next_word_disparity", "generation_disparity", "perplexity"]
    text = markdown(results)
    for score in shown:
        assert f" {label(results, score)} |" in text
    for heading in groups:
        assert text.count(f"## {heading}\n") == 1 and text.count(f"### {heading}: ratio to plain\n") == 1


def test_what_models_remember_is_a_table_of_its_own(results):
    results["cards"] |= card_dicts(["membership_excess_auc"])
    for row in results["rows"]:
        row["metrics"] = {"membership_excess_auc": row["metrics"]["perplexity"]} | row["metrics"]
    groups = score_groups(results)
    assert list(groups) == ["Scores", "Other scores", "What it remembers", "Halves of the occupations"]
    assert groups["What it remembers"] == ["membership_excess_auc"]
    assert "## What it remembers\n" in markdown(results)


def test_texts_have_tables_of_their_own(results):
    for row in results["rows"]:
        row["metrics"] |= {f"perplexity_{text}": row["metrics"]["perplexity"] for text in ("people", "fiction")}
    groups = score_groups(results)
    assert list(groups)[-2:] == ["Text: people", "Text: fiction"]
    assert groups["Text: fiction"] == ["perplexity_fiction"]


def test_what_was_not_measured_is_told_once(results):
    for row in results["rows"]:
        row["metrics"]["crows_pairs_gender"] = {"value": None, "low": None, "high": None, "reason": "no data here"}
    assert markdown(results).count("- no data here\n") == 1


def against_plain(results, score: str) -> dict[str, dict]:
    """Row -> what the study found of its score beside plain's."""
    return {row["name"]: row["against_plain"][score] for row in results["rows"] if row["against_plain"]}


def test_a_row_that_made_something_worse_says_so(results):
    """CrowS-Pairs is a score beside what is mitigated: nothing moved it in these results, so one is moved here."""
    for found in against_plain(results, "crows_pairs_gender").values():
        found["farther"] = {"value": -0.5, "low": -1.0, "high": 0.1}
    moved = against_plain(results, "crows_pairs_gender")["swap"]
    moved["farther"] = {"value": 2.5, "low": 1.25, "high": 3.75}
    (worse,) = (line for line in markdown(results).splitlines() if "Worse than with" in line)
    assert worse.startswith("- swap: ") and "CrowS-Pairs, gender by 2.500 [1.250, 3.750] (1 of 1 scores" in worse
    against_plain(results, "crows_pairs_gender")["mean"]["farther"] = {"value": 9.0, "low": None, "high": None}
    lines = side_effects(results)
    assert "- mean: Not compared." in lines
    assert "- max: None of 1 scores is worse by more than its interval." in lines
    assert any(line.startswith("| swap |") and "2.500 [1.250, 3.750]" in line for line in lines)
    assert not any("perplexity" in line for line in lines)  # a cost, which has tables of its own


def test_a_study_that_was_not_told_what_is_farther_has_no_such_section(results):
    """study.json of before: it has differences and ratios alone."""
    assert side_effects(results)
    assert "CrowS-Pairs, gender" not in headings_of_ratios(results)
    without_farther(results)
    assert side_effects(results) == []
    assert "CrowS-Pairs, gender" in headings_of_ratios(results)


def headings_of_ratios(results) -> str:
    return markdown(results).partition("### Other scores: ratio to plain\n\n")[2].splitlines()[0]


def without_farther(results) -> None:
    for row in results["rows"]:
        for found in row["against_plain"].values():
            found.pop("farther", None)


def test_what_is_shown_loads_neither_torch_nor_a_metric():
    code = "import sys, distill.study.report; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "distill.study.report" in loaded
    assert not [name for name in loaded if name.split(".")[0] == "torch" or name.startswith("distill.metrics")]


def test_the_figure_is_of_the_scores_that_the_cards_tell(results):
    for score, card in results["cards"].items():
        card["role"] = {"equivariance_gap": "disparity", "neutral_rate": "cost"}.get(score)
    assert trade_off(results) == ("neutral_rate", "equivariance_gap")
    assert "equivariance gap against neutral rate" in pareto(results)


def test_the_legend_names_the_operations_of_the_study_alone():
    results = made_up_results(rows=("plain", "max"))
    tree = ElementTree.fromstring(pareto(results))
    texts = {text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert {"no operation", "max", "expmean"} <= texts  # the last is the two-view teacher's
    assert not {"mean", "swap"} & texts


def test_the_figure_stands_alone_and_names_every_row(results):
    svg = pareto(results)
    for forbidden in ("<script", "var(", "url(", "http://", "https://"):
        assert forbidden not in svg.replace("http://www.w3.org/2000/svg", "")
    name = "{http://www.w3.org/2000/svg}"
    tree = ElementTree.fromstring(svg)
    assert tree.find(f"{name}rect").get("class") == "ground"
    labels = [t for t in tree.iter(f"{name}text") if t.get("class") == "label" and t.get("x").endswith("%")]
    rows = {row["name"] for row in results["rows"]}
    assert {t.text for t in labels} == rows - {"no_teacher"}
    assert any("no_teacher" in (t.text or "") for t in tree.iter(f"{name}text"))
    heights = sorted(float(t.get("y")) for t in labels)
    assert all(b - a >= 12.9 for a, b in pairwise(heights))
    width = float(tree.get("viewBox").split()[2]) - 36
    for text in labels:  # 7 pixels are more than a letter takes on average
        assert float(text.get("x")[:-1]) / 100 * width + 6.8 * len(text.text) <= width + 18
    defined = {path.get("id") for path in tree.iter(f"{name}path")}
    used = [use.get("href").removeprefix("#") for use in tree.iter(f"{name}use")]
    assert set(used) <= defined
    assert len(used) == len(labels) + 9  # and the legend


def marks_in(svg: str) -> dict[str, tuple[str, str]]:
    """Row -> class and shape of its mark in a figure."""
    name = "{http://www.w3.org/2000/svg}"
    marks = {}
    for group in ElementTree.fromstring(svg).iter(f"{name}g"):
        row = group.find(f"{name}title").text.partition(":")[0]
        use = group.find(f"{name}use")
        marks[row] = (use.get("class"), use.get("href"))
    return marks


def test_a_student_without_a_teacher_is_told_from_models_that_were_not_trained(results):
    """Its text may be augmented, as that of others."""
    assert "without a teacher" not in pareto(results)  # no_teacher lies too far to the right
    for row in results["rows"]:
        row["setting"] = None if row["name"] in ("max", "max-augment") else row["setting"]
    svg = pareto(results)
    marks = marks_in(svg)
    assert marks["max"] == ("mark no-teacher", "#mark-plain")
    assert marks["max-augment"] == ("mark no-teacher", "#mark-mitigated")
    assert marks["teacher"] == ("mark teacher", "#mark-teacher")
    assert svg.count("without a teacher") == 1


def test_colour_fill_and_shape_tell_the_setting(results):
    marks = marks_in(pareto(results))
    assert marks["teacher"] == ("mark teacher", "#mark-teacher")
    assert marks["two_view_teacher"] == ("mark expmean filled", "#mark-teacher")
    assert marks["plain"] == ("mark none", "#mark-plain")
    assert marks["augment"] == ("mark none", "#mark-mitigated")
    assert marks["swap-reverse-augment"] == ("mark swap filled", "#mark-mitigated")
    assert marks["max"] == ("mark max", "#mark-plain")


def test_the_front_is_of_students_alone(results):
    """The two-view teacher beats them all, at twice the price of every prediction."""
    students = [row for row in results["rows"] if "teacher" not in row["name"]]
    costs = {row["name"]: 1.0 if row["name"] == "plain" else ratio(row, "perplexity")["value"] for row in students}
    places = [(costs[row["name"]], row["metrics"]["next_word_disparity"]["value"]) for row in students]
    front = [(x, y) for x, y in places if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in places)]
    svg = pareto(results)
    assert len(front) > 1 and svg.count('class="front"') == 2 * (len(front) - 1)
    assert "Dotted: from each student" in svg


def test_no_figure_of_nothing(results):
    for row in results["rows"]:
        row["metrics"].pop("next_word_disparity")
    assert pareto(results) is None


def test_a_private_study_has_a_table_of_epsilons_and_a_figure_of_disparity_against_them(results):
    """Where 0 is no privacy: a private row, the same setting without, and no other row."""
    assert privacy_table(results) == [] and against_epsilon(results) is None
    rows = {row["name"]: row for row in results["rows"] if row["name"] not in ("teacher", "two_view_teacher")}
    for row in rows.values():
        row |= {"epsilon": None, "step_seconds": 1.5}
    for name, setting, epsilon in (("max", "plain", 8.0), ("mean", "plain", 1.0), ("swap", "max-reverse", 3.0)):
        rows[name] |= {"epsilon": epsilon, "setting": rows[setting]["setting"]}
    table = privacy_table(results)
    assert "| max | 8 | 1.500 |" in table and "| plain | none | 1.500 |" in table
    assert all(line in markdown(results) for line in table)
    svg = against_epsilon(results)
    name = "{http://www.w3.org/2000/svg}"
    places = {}
    for group in ElementTree.fromstring(svg).iter(f"{name}g"):
        places[group.find(f"{name}title").text.partition(",")[0]] = float(group.find(f"{name}use").get("x")[:-1])
    assert places.keys() == {"plain", "max-reverse", "max", "mean", "swap"}
    assert places["plain"] == places["max-reverse"] < places["max"] < places["swap"] < places["mean"]


def test_costs_are_a_table_where_a_study_asked_for_them():
    results = copy.deepcopy(made_up_results())
    assert cost_table(results) == []
    for row in results["rows"]:
        student = row["name"] == "plain"
        row["costs"] = {"training_seconds": 120.0 if student else None, "step_seconds": 0.25 if student else None}
        row["costs"]["token_seconds"] = 0.003
    lines = cost_table(results)
    assert "| plain | 120.0 | 0.250 | 3.000 |" in lines and "| teacher | – | – | 3.000 |" in lines
    assert "\n".join(lines) in markdown(results)


def test_the_figure_explains_numbers_behind_names_only_where_they_are_strengths(results):
    assert "strength, in %" in pareto(results)
    students = results["settings"]["study"]["students"]
    results["settings"]["study"]["students"] = {name: keys for name, keys in students.items() if name[-1] not in "05"}
    assert "strength, in %" not in pareto(results)


@pytest.fixture
def beside_another(results):
    """The same, but `swap` and `two_view_teacher` are set against `mean`, which is set against none."""
    rows = {row["name"]: row for row in results["rows"]}
    for name in ("swap", "two_view_teacher"):
        rows[name] |= {"against": {"row": "mean", "metrics": rows[name]["against_plain"]}, "against_plain": {}}
    rows["mean"] |= {"against": {"row": None, "metrics": {}}, "against_plain": {}}
    return results


def tables(text: str) -> dict[str, list[str]]:
    """Heading -> the first cells of the lines of the table below it."""
    found = {}
    for part in text.split("# ")[1:]:
        heading, *lines = part.splitlines()
        found[heading] = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")][1:]
    return found


def test_rows_stand_in_the_tables_of_what_they_are_set_against(beside_another):
    names = [row["name"] for row in beside_another["rows"]]
    text = markdown(beside_another)
    found = tables(text)
    assert found["Scores"] == names
    own = ["swap", "two_view_teacher"]
    for kind in ("Scores: ratio to", "How much worse than"):
        assert sorted(found[f"{kind} mean"]) == own
        assert found[f"{kind} plain"] == [name for name in names if name not in (*own, "plain", "mean")]
    said = "Rows are set against plain, but against mean: two_view_teacher, swap; against none: mean."
    assert said in text.splitlines()


def test_what_got_worse_is_said_of_the_row_that_it_is_set_against(beside_another):
    rows = {row["name"]: row for row in beside_another["rows"]}
    rows["swap"]["against"]["metrics"]["crows_pairs_gender"]["farther"] = {"value": 2.5, "low": 1.25, "high": 3.75}
    (line,) = (line for line in side_effects(beside_another) if line.startswith("- swap: "))
    assert line.startswith("- swap: Worse than with mean: CrowS-Pairs, gender by 2.500 [1.250, 3.750]")
    assert not any(line.startswith("- mean: ") for line in side_effects(beside_another))


def test_a_study_whose_rows_name_none_says_nothing_of_it(results):
    assert set_against(results["rows"]) == ""
    assert not any("against" in row for row in results["rows"])
    assert "set against" not in markdown(results) and "set against" not in pareto(results)
    assert "perplexity as a multiple of plain" in pareto(results)


def places(svg: str) -> dict[str, float]:
    """Row -> where its point stands from left to right."""
    name = "{http://www.w3.org/2000/svg}"
    groups = ElementTree.fromstring(svg).iter(f"{name}g")
    return {g.find(f"{name}title").text.partition(":")[0]: float(g.find(f"{name}use").get("x")[:-1]) for g in groups}


def test_the_figure_has_each_cost_as_a_multiple_of_the_row_it_is_set_against(beside_another):
    rows = {row["name"]: row for row in beside_another["rows"]}
    ratio = {"value": 1.2, "low": 1.2, "high": 1.2}
    rows["swap"]["against"]["metrics"]["perplexity"]["ratio"] = ratio
    rows["max"]["against_plain"]["perplexity"]["ratio"] = ratio
    found = places(pareto(beside_another))
    assert found["mean"] == found["plain"] < found["swap"] == found["max"]
    svg = pareto(beside_another)
    assert "perplexity as a multiple of that of the row that each is set against" in svg
    assert ">Rows are set against plain, but against mean: two_view_teacher, swap; against none: mean.<" in svg


def test_a_private_row_stands_beside_the_same_setting_of_its_own_model(beside_another):
    """Here mean is plain's setting with another model, and swap is private."""
    rows = {row["name"]: row for row in beside_another["rows"]}
    for name in ("plain", "mean", "swap"):
        rows[name] |= {"epsilon": None, "step_seconds": 1.5, "setting": rows["plain"]["setting"]}
    rows["swap"]["epsilon"] = 8.0
    titles = [e.text for e in ElementTree.fromstring(against_epsilon(beside_another)).iter() if e.tag.endswith("title")]
    shown = {title.partition(",")[0] for title in titles if ", no privacy: " in title or ", epsilon 8: " in title}
    assert shown == {"mean", "swap"}
