"""What this repository publishes of its own study: the README's table, STUDY.md and the figure."""

import copy
import json
import re
from itertools import pairwise

import publish_study
import pytest
from publish_study import (
    BEGIN,
    BEGIN_LONGER,
    BEGIN_PROMISE,
    END,
    END_LONGER,
    END_PROMISE,
    FIGURE,
    LONGER,
    PAGE,
    README,
    RESULTS,
    Claim,
    best,
    claims_of_plain,
    claims_of_reversal,
    claims_of_the_best,
    figure,
    longer_training,
    page,
    promise,
    published,
    readme_results,
    settings,
)
from shared import REPOSITORY
from study_results import made_up_results

from distill.base.markdown_text import between_markers
from distill.study.file import read_study
from distill.study.report import label, pareto


@pytest.fixture
def results():
    return copy.deepcopy(made_up_results())


def row_of(results, name):
    return next(row for row in results["rows"] if row["name"] == name)


def set_ratio(results, name, metric, value):
    row_of(results, name)["against_plain"][metric]["ratio"]["value"] = value


# ------------------------------------------------------------------------------------------------- the committed ones


def committed(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("path", "made"),
    [
        (README, lambda text: between_markers(text, BEGIN, END, readme_results(committed(RESULTS), committed(LONGER)))),
        (README, lambda text: between_markers(text, BEGIN_PROMISE, END_PROMISE, promise(committed(RESULTS)))),
        (PAGE, lambda text: between_markers(text, BEGIN, END, page(committed(RESULTS)))),
        (
            PAGE,
            lambda text: between_markers(
                text, BEGIN_LONGER, END_LONGER, longer_training(committed(RESULTS), committed(LONGER))
            ),
        ),
        (FIGURE, lambda text: figure(committed(RESULTS))),
    ],
    ids=["README.md", "README.md-promise", "STUDY.md", "STUDY.md-longer", "study.svg"],
)
def test_what_is_committed_is_what_the_results_give(path, made):
    text = path.read_bytes().decode()
    assert text == made(text)


@pytest.mark.parametrize("name", ["smollm2", "gpt2"])
def test_real_teachers_get_the_best_settings(name):
    study = read_study(REPOSITORY / "recipes" / "study" / f"{name}.yaml", data="DIR")
    assert list(study.students) == ["plain", "augment", *best(committed(RESULTS))]


def figures(text):
    """Figures with an interval: `0.135 [0.076, 0.189]`."""
    return set(re.findall(r"-?\d[\d.,]* \[-?[\d.]+, -?[\d.]+\]", " ".join(text.split())))


def test_every_interval_that_is_written_by_hand_is_one_of_the_results():
    text = PAGE.read_text(encoding="utf-8")
    by_hand, _, made = text.partition(BEGIN)
    before, _, rest = by_hand.partition(BEGIN_LONGER)
    longer, _, after = rest.partition(END_LONGER)
    after, gpu, elsewhere = after.partition("## A real teacher")
    assert gpu and figures(elsewhere)  # of SmolLM2 and of a GPU: their results are not published
    assert len(figures(before)) > 5
    assert figures(before + after) <= figures(made + longer)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """All that publishing writes, in an empty folder: name -> path."""
    names = ("RESULTS", "LONGER", "PAGE", "FIGURE", "README")
    paths = {name: tmp_path / getattr(publish_study, name).name for name in names}
    for name, path in paths.items():
        monkeypatch.setattr(publish_study, name, path)
    monkeypatch.setattr(publish_study, "REPOSITORY", tmp_path)
    paths["README"].write_text(
        f"# Title\n\n{BEGIN_PROMISE}\nold\n{END_PROMISE}\n\n{BEGIN}\nold\n{END}\n\n## More\n", encoding="utf-8"
    )
    page = f"# Title\n\n{BEGIN_LONGER}\nold\n{END_LONGER}\n\nMore\n\n{BEGIN}\nold\n{END}\n"
    paths["PAGE"].write_text(page, encoding="utf-8")
    return paths


def test_publishing_writes_all_and_a_change_by_hand_shows(results, folder, tmp_path):
    made = [tmp_path / "made.json", tmp_path / "longer_made.json"]
    for path, content in zip(made, (results, longer_results()), strict=True):
        path.write_text(json.dumps(content), encoding="utf-8")
    publish_study.main(list(map(str, made)))
    kept, longer = committed(folder["RESULTS"]), committed(folder["LONGER"])
    assert folder["FIGURE"].read_text(encoding="utf-8") == publish_study.figure(kept)
    readme = folder["README"].read_text(encoding="utf-8")
    assert readme == (
        f"# Title\n\n{BEGIN_PROMISE}\n{promise(kept)}\n{END_PROMISE}\n\n"
        f"{BEGIN}\n{readme_results(kept, longer)}\n{END}\n\n## More\n"
    )
    assert folder["PAGE"].read_text(encoding="utf-8") == (
        f"# Title\n\n{BEGIN_LONGER}\n{longer_training(kept, longer)}\n{END_LONGER}\n\nMore\n\n"
        f"{BEGIN}\n{page(kept)}\n{END}\n"
    )
    figure = re.search(r"\| plain \| (\d\.\d+)", readme)[1]
    changed = readme.replace(f"| plain | {figure}", f"| plain | {float(figure) - 0.001:.3f}")
    assert changed != readme and between_markers(changed, BEGIN, END, readme_results(kept, longer)) != changed
    before = [path.read_bytes() for path in folder.values()]
    publish_study.main([])
    assert [path.read_bytes() for path in folder.values()] == before
    publish_study.main([str(made[0])])  # the other stays as it is published
    assert [path.read_bytes() for path in folder.values()] == before


def longer_results():
    """Two rows of the study, trained for four times as long."""
    longer = copy.deepcopy(made_up_results(rows=("plain", "expmean-reverse-augment")))
    longer["settings"]["trainer"]["max_steps"] *= 4
    for name in ("teacher", "expmean-reverse-augment"):
        set_ratio(longer, name, "next_word_disparity", 0.123)
    row_of(longer, "plain")["metrics"]["perplexity"]["value"] = 111.1
    longer["rows"] = [row for row in longer["rows"] if row["name"] != "two_view_teacher"]
    return longer


def test_longer_training_stands_beside_the_study(results):
    longer = longer_results()
    text = longer_training(results, longer)
    cells = {line.split(" | ")[0][2:]: line for line in text.splitlines() if " steps |" in line}
    steps = results["settings"]["trainer"]["max_steps"]
    expected = [
        f"{name}, {count:,} steps"
        for name in ("plain", "teacher", "expmean-reverse-augment")
        for count in (steps, 4 * steps)
    ]
    assert sorted(cells) == sorted(expected)
    assert "111.1" in cells[f"plain, {4 * steps:,} steps"] and "111.1" not in cells[f"plain, {steps} steps"]
    for name in ("teacher", "expmean-reverse-augment"):
        assert "0.123" in cells[f"{name}, {4 * steps:,} steps"]  # the last table: ratios
        ratio = row_of(results, name)["against_plain"]["next_word_disparity"]["ratio"]["value"]
        assert f"{ratio:.3f}" in cells[f"{name}, {steps} steps"]
    assert "1234567" in text and "seeds 0, 1, 2" in text


def test_the_published_file_holds_six_digits_of_everything(results):
    text = published(results)
    kept = json.loads(text)
    assert list(kept) and kept.keys() == results.keys()
    assert len(text) < len(json.dumps(results, indent=2)) / 2

    def compare(ours, theirs):
        if isinstance(theirs, dict):
            assert ours.keys() == theirs.keys()
            for key in theirs:
                compare(ours[key], theirs[key])
        elif isinstance(theirs, list):
            for one, other in zip(ours, theirs, strict=True):
                compare(one, other)
        else:
            assert ours == (pytest.approx(theirs, rel=1e-5) if isinstance(theirs, float) else theirs)

    compare(kept, results)
    assert json.loads(published(kept)) == kept


# -------------------------------------------------------------------------------------------------------------- best


def test_the_best_are_chosen_by_the_chosen_half_alone(results):
    everything = best(results, most=99)
    assert len(everything) == len(settings(results)) == 23
    assert not {"plain", "augment", "no_teacher", "teacher", "two_view_teacher"} & set(everything)
    order = {name: row_of(results, name)["against_plain"] for name in everything}
    sums = [
        sum(order[n][f"{m}_chosen"]["ratio"]["value"] for m in ("next_word_disparity", "generation_disparity"))
        for n in everything
    ]
    assert sums == sorted(sums)
    for row in results["rows"]:
        for metric, entry in row["against_plain"].items():
            if not metric.endswith("_chosen") and metric != "perplexity":
                entry["ratio"]["value"] = 7.0
    assert best(results, most=99) == everything
    set_ratio(results, "max", "next_word_disparity_chosen", 0.0)
    set_ratio(results, "max", "generation_disparity_chosen", 0.0)
    assert best(results) == ["max", everything[0]]


@pytest.mark.parametrize(
    ("metric", "ratio"), [("perplexity", 1.06), ("neutral_rate_chosen", 1.3), ("neutral_rate_chosen", 0.7)]
)
def test_what_costs_too_much_comes_last(results, metric, ratio):
    first, second = best(results)
    set_ratio(results, first, metric, ratio)
    assert best(results)[0] == second
    assert best(results, most=99)[-1] == first


def test_nothing_is_best_where_nothing_was_measured(results):
    for row in results["rows"]:
        row["metrics"].pop("next_word_disparity_chosen")
        row["against_plain"].pop("next_word_disparity_chosen", None)
    assert best(results) == []
    assert "an unknown share" in " ".join(readme_results(results, longer_results()).split())
    assert "none, as the disparities were not measured" in page(results)


# ------------------------------------------------------------------------------------------------------------ claims


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.05, 0.02, 0.09, "reached"),
        (0.05, 0.02, 0.1, "reached"),
        (0.05, 0.02, 0.11, "reached, but its interval reaches beyond"),
        (0.05, None, None, "reached, but its interval reaches beyond"),
        (0.11, 0.05, 0.2, "**not reached**"),
        (None, None, None, "not measured"),
    ],
)
def test_a_claim_is_reached_within_its_bounds(value, low, high, verdict):
    assert Claim("", "", "", {"value": value, "low": low, "high": high}, (0.0, 0.1)).verdict == verdict


def test_the_claims_of_the_issue_are_held_against_their_figures(results):
    first, second = best(results)
    claims = list(claims_of_the_best(results))
    assert {claim.row for claim in claims} == {first, second}
    of_first = {claim.score: claim for claim in claims if claim.row == first}
    assert {score: claim.bounds for score, claim in of_first.items() if "held out" not in score} == {
        "corpus disparity": (0.0, 0.1),
        "next-word disparity": (0.0, 0.4),
        "generation disparity": (0.0, 0.5),
        "fairness ratio, mean": (1.5, float("inf")),
        "perplexity": (0.0, 1.05),
        "neutral rate": (0.75, 1.25),
    }
    assert {"next-word disparity, held out", "generation disparity, held out"} <= of_first.keys()
    ratio = row_of(results, first)["against_plain"]["next_word_disparity_held_out"]["ratio"]
    assert of_first["next-word disparity, held out"].ratio == ratio
    assert [claim.bounds for claim in claims_of_plain(results)] == [(0.0, 1.0)] * 3


def test_reversal_is_compared_with_the_same_row_without_it(results):
    pairs = {(pair["row"], pair["against"]) for pair in results["reverse_roles"]}
    ops = ("max", "mean", "expmean", "swap")
    assert pairs == {(f"{op}-reverse{end}", f"{op}{end}") for op in ops for end in ("", "-augment")}
    claims = list(claims_of_reversal(results))
    assert len(claims) == 16
    sizes = [
        sum(map(abs, row_of(results, name)["metrics"]["next_word_disparity"]["per_seed"]))
        for name in ("max-reverse", "max")
    ]
    ratio = sizes[0] / sizes[1]
    claim = next(c for c in claims if c.row == "max-reverse / max" and c.score == "next-word disparity")
    assert claim.ratio["value"] == pytest.approx(ratio)


# ------------------------------------------------------------------------------------------------------------- pages


def test_the_first_sentence_of_the_readme_is_of_the_study():
    """Its figures, worked out here from the ratios that are committed."""
    (row,) = [row for row in committed(RESULTS)["rows"] if row["name"] == "expmean-reverse-augment-listed"]
    left = {
        score: row["against_plain"][score]["ratio"]["value"] for score in ("next_word_disparity", "corpus_disparity")
    }
    told = promise(committed(RESULTS))
    assert f"{round(100 - 100 * left['next_word_disparity'])}% less gender disparity after prompts" in told
    assert f"{round(100 - 100 * left['corpus_disparity'])}% less in running text" in told
    cards = {score: card for score, card in committed(RESULTS)["cards"].items() if card["side"]}
    worse = [score for score in cards if (row["against_plain"][score]["farther"]["low"] or 0) > 1e-9]
    labels = [cards[score]["label"] for score in worse]
    sentence = told.replace("\n", " ").partition("Of 18 scores beside these, ")[2]
    assert sentence.startswith(f"{len(worse)} got worse") and all(name in sentence for name in labels) and worse
    assert promise({"rows": []}) == ""


def test_the_figure_shows_rows_whose_names_do_not_collide():
    drawn = figure(committed(RESULTS))
    labels = re.findall(r'<text class="label" x="7\d\.\d\d%" y="([\d.]+)"', drawn)
    heights = sorted(map(float, labels))
    assert 8 <= len(heights) <= 14
    assert all(above + 12 <= below for above, below in pairwise(heights))
    names = re.findall(r'<text class="label" x="([\d.]+)%"[^>]*>([^<]*)</text>', drawn)
    assert len(names) == len(heights)
    widest = 864 / 100, 7.2  # pixels of a percent of the width, and of a letter of the figure's font
    assert all(float(x) * widest[0] + len(name) * widest[1] <= 864 for x, name in names)


def test_the_readme_gets_one_figure_and_one_short_table(results):
    text = readme_results(results, longer_results())
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) <= 12
    names = [line.split("|")[1].strip() for line in lines[2:]]
    assert names == ["teacher", "plain", "augment", *best(results)]
    assert lines[0].count("|") == 9
    entry = row_of(results, "plain")["metrics"]["next_word_disparity"]
    assert f"| {entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}] |" in lines[2 + names.index("plain")]
    assert text.count("![") == 1
    for told in ("1234567", "seeds 0, 1, 2", "distill study recipes/study.yaml --data DIR", "AVX2"):
        assert told in " ".join(text.split())
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))
    readme = between_markers(README.read_text(encoding="utf-8"), BEGIN, END, readme_results(results, longer_results()))
    assert len(readme.splitlines()) < 200


def test_the_page_has_every_row_every_score_and_how_it_was_made(results):
    text = page(results)
    for row in results["rows"]:
        assert f"\n| {row['name']} | " in text
    for metric in ("next_word_disparity_held_out", "generation_disparity_chosen", "crows_pairs_gender"):
        assert label(results, metric) in text
    for told in ("1234567", "0, 1, 2", "distill study recipes/study.yaml --data DIR", "AVX2", "4.000", "torch"):
        assert told in text
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    for lines in tables:
        assert len({line.replace("\\|", "").count("|") for line in lines.splitlines()}) == 1, lines


def test_one_seed_is_enough():
    results = made_up_results(seeds=(0,))
    entry = row_of(results, "plain")["metrics"]["perplexity"]
    assert entry["low"] < entry["value"] < entry["high"]
    assert "Seed 0;" in " ".join(page(results).split())
    assert pareto(results) is not None
    assert len(best(results)) == 2
