"""report.md and the terminal's table, with foreign text in them; what they say, in numbers and sentences."""

import copy
import io
import json
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from distill.base.markdown_text import escape
from distill.data.counts import PackingCounts
from distill.metrics import METRICS
from distill.recipe import Recipe, ScoreConfig, TargetConfig
from distill.reports.findings import cell, coverage, headline, number, score_rows, training_rows
from distill.reports.report import print_table, read_training, report_markdown, write_report
from distill.scoring.score import score_models
from distill.text.prompts import load_prompts
from distill.text.wordlist import load_wordlist

RECIPE = Recipe(output_dir="outputs/try", target=TargetConfig(op="expmean", reverse_roles=True, augment=True))
COUNTS = PackingCounts(documents=10, edited_documents=7, tokens=123, blocks=4)


@pytest.fixture(scope="module")
def scores(toy_scores):
    """Scores of three toy models; two texts are hostile."""
    scores = copy.deepcopy(toy_scores)
    scores["samples"][0]["texts"]["student"] = ["a | b\n\n# <script>alert(1)</script> [x](javascript:y) `c` *d*"]
    scores["samples"][1]["texts"]["student"] = ["x" * 5000]
    return scores


# ------------------------------------------------------------------------------------------------------------- parts


def with_people(scores, reference):
    """The scores with both fairness ratios of every model, and with what texts by people score."""
    scores = copy.deepcopy(scores)
    for of_model in scores["models"].values():
        for name in ("fairness_ratio_mean", "fairness_ratio_min"):
            of_model[name] = of_model["neutral_rate"] | {"details": {"reference": reference}}
    return scores


def test_texts_by_people_have_rows_below_the_ratios(scores):
    rows = list(score_rows(with_people(scores, {"value": 0.25, "neutral_rate": 0.5})))
    names = [row[0] for row in rows]
    people = [row for row in rows if row[0].startswith("people's texts: ")]
    assert [row[0] for row in people] == [
        "people's texts: fairness ratio, mean",
        "people's texts: neutral rate",
        "people's texts: fairness ratio, minimum",
    ]
    assert names.index(people[0][0]) == names.index("fairness ratio, mean") + 1
    assert {tuple(row[1:-2]) for row in people} == {("0.250",) * 3, ("0.500",) * 3}
    said = report_markdown(RECIPE, with_people(scores, {"value": 0.25}))
    assert "| 0.250 | 0.250 | 0.250 |" in next(
        line for line in said.splitlines() if "people" in line and "mean" in line
    )


def test_without_texts_by_people_there_is_no_such_row(scores):
    rows = list(score_rows(with_people(scores, {"reason": "no data"})))
    assert rows and not [row for row in rows if row[0].startswith("people's texts")]


def test_the_terminal_says_what_was_not_measured_and_why(scores):
    scores = copy.deepcopy(scores)
    details = {"reason": "no classifier of toxicity"}
    scores["models"]["student"]["toxicity_rate"] = scores["models"]["student"]["perplexity"] | {
        "value": None, "low": None, "high": None, "details": details,
    }  # fmt: skip
    out = io.StringIO()
    print_table(scores, Console(file=out, width=120))
    assert "not measured: toxic texts of student: no classifier of toxicity." in out.getvalue()
    (row,) = (line for line in out.getvalue().splitlines() if line.strip().startswith("toxic texts"))
    assert "not measured" in row


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"), (0, "0.000"), (0.12345, "0.123"), (-0.5, "-0.500"), (12.345, "12.35"), (123.45, "123.5"),
        (12345.6, "12,346"), (-1234.5, "-1,234"),
    ],
)  # fmt: skip
def test_numbers(value, expected):
    assert number(value) == expected


def test_cells():
    assert cell({"value": 0.5, "low": 0.25, "high": 1}) == "0.500 [0.250, 1.000]"
    assert cell({"value": 0.5, "low": None, "high": None}) == "0.500"
    assert cell({"value": None, "low": None, "high": None}) == "–"
    assert cell(None) == "–"
    assert cell({"value": None, "details": {"reason": "no data"}}) == "not measured"


@given(st.text())
def test_escaped_text_cannot_leave_its_cell(text):
    escaped = escape(text)
    assert len(escaped.splitlines()) <= 1
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_\[\]#~]", escaped)
    assert "<" not in escaped
    assert ">" not in escaped


def test_escaping_keeps_what_is_read():
    assert escape('he said: "no" & left') == 'he said\\: "no" &amp; left'
    assert escape("one\n\n two\r\nthree") == "one ⏎ two ⏎ three"


# ---------------------------------------------------------------------------------------------------------- sentences


def _entry(value=1.0, ratio=None, ratio_low=None, ratio_high=None):
    """Score and difference in one: enough for a headline."""
    return {"value": value, "low": None, "high": None, "ratio": ratio, "ratio_low": ratio_low, "ratio_high": ratio_high}


def _scores(names, differences):
    models = {name: {"next_word_disparity": _entry(1.114), "perplexity": _entry(137.7)} for name in names}
    return {"models": models, "differences": differences}


def test_the_headline_says_what_is_left_and_what_it_costs():
    found = {
        "corpus_disparity": _entry(ratio=0.1, ratio_low=0.0, ratio_high=0.2),
        "next_word_disparity": _entry(ratio=0.4149, ratio_low=0.3551, ratio_high=0.47),
        "perplexity": _entry(ratio=1.021, ratio_low=0.9999, ratio_high=1.04),
    }
    names = ["teacher", "baseline", "student"]
    scores = _scores(names, {"student - teacher": {}, "student - baseline": found})
    sentence = "Next-word disparity 0.41 [0.36, 0.47] of plain distillation's, perplexity +2.1% [0.0%, +4.0%]."
    assert headline(scores) == sentence
    del found["next_word_disparity"]
    assert headline(scores).startswith("Corpus disparity 0.10 [0.00, 0.20] of plain distillation's, ")


def test_the_headline_of_fewer_models():
    found = {"next_word_disparity": _entry(ratio=2.0), "perplexity": _entry(ratio=0.9)}
    scores = _scores(["teacher", "student"], {"student - teacher": found})
    assert headline(scores) == "Next-word disparity 2.00 of the teacher's, perplexity -10.0%."
    assert headline(_scores(["gpt2"], {})) == "Next-word disparity 1.114, perplexity 137.7."
    assert headline({"models": {}, "differences": {}}) == "Nothing was measured."


def test_what_the_list_covers(scores):
    sentences = coverage(scores, COUNTS)
    words = scores["models"]["teacher"]["next_word_disparity"]["details"]["words"]
    assert sentences[0] == "The list short has 4 rows with 4 male, 4 female words."
    assert sentences[1].startswith(f"{words['movable']} of its 8 words have a token")
    assert "7 of 10 documents (70.0%) hold a word that was swapped" in sentences[2]
    # she; woman, her, man, his
    assert sentences[3] == "Held-out text: 2 of 2 documents (100.0%) hold a listed word: 2 male, 3 female."


def test_an_older_file_without_coverage_is_reported_all_the_same(scores):
    older = copy.deepcopy(scores)
    del older["examples"], older["settings"]["weights"]
    older["settings"]["wordlist"] = {k: older["settings"]["wordlist"][k] for k in ("name", "groups", "sha256")}
    older["settings"]["held_out"] = {"documents": 2, "bytes": 77}
    assert "## What the word list covers" in report_markdown(RECIPE, older)


def test_training_is_read_where_it_lies_and_damage_is_left_out(tmp_path):
    assert read_training(tmp_path) == {}
    (tmp_path / "training").mkdir()
    record = {"seconds": 93.2, "student_tokens": 1234567, "history": []}
    broken = {"half": "{", "list": "[]", "words": '{"seconds": "an hour"}', "nan": '{"seconds": NaN}'}
    broken |= {"no_list": '{"history": 1}', "deep": '{"history": [{"step": [1]}]}', "flat": '{"history": [1]}'}
    for name, content in {"student": json.dumps(record), **broken}.items():
        (tmp_path / "training" / f"{name}.json").write_text(content, encoding="utf-8")
    training = read_training(tmp_path)
    assert training == {"student": record}
    assert training_rows(training) == [["student", "93 s", "1,234,567", "–"]]
    assert training_rows({"student": {}}) == [["student", "–", "–", "–"]]


def _tables(markdown: str) -> list[list[list[str]]]:
    """The tables of a Markdown text, each as rows of cells."""
    tables, rows = [], []
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif rows:
            tables.append(rows)
            rows = []
    return tables


# ------------------------------------------------------------------------------------------------------------ report


def test_report_shows_every_model_and_metric(scores):
    markdown = report_markdown(RECIPE, scores, COUNTS)
    tables = _tables(markdown)
    for table in tables:
        assert len({len(row) for row in table}) == 1, table[0]
    head, _, *rows = tables[0]
    assert head == ["score", "teacher", "baseline", "student", "ideal", "better"]
    assert [row[0] for row in rows] == [METRICS[metric].CARD.label for metric in scores["models"]["student"]]
    perplexity = scores["models"]["student"]["perplexity"]
    row = next(row for row in rows if row[0] == "perplexity")
    assert row[3].replace("\\", "") == cell(perplexity)
    assert row[4:] == ["1", "lower is better"]
    assert markdown.splitlines()[2].replace("\\", "") == headline(scores)
    for heading in (
        "### student - baseline", "### student - teacher", "## Same prompts, before and after",
        "## How the student was made", "## What was not measured", "## Limits",
    ):  # fmt: skip
        assert heading in markdown
    assert "### baseline - teacher" not in markdown
    assert "expmean, strength 1, role-reversed" in markdown.replace("\\", "")
    assert "10 documents, 123 tokens in 4 blocks" in markdown
    assert "two groups is a limit" in markdown
    assert "One metric misleads" in markdown


def test_same_prompts_stand_side_by_side_and_cannot_break_out(scores):
    markdown = report_markdown(RECIPE, scores, COUNTS)
    table = next(table for table in _tables(markdown) if table[0][0] == "prompt")
    assert table[0] == ["prompt", "teacher", "baseline", "student"]
    assert len(table) == 2 + len(scores["samples"])
    assert "<script>" not in markdown
    assert "\\| b ⏎ \\# &lt;script&gt;" in table[2][3]
    assert len(table[3][3]) < 400


def test_undefined_scores_are_named_not_hidden(toy_model, toy_tokenizer, short_wordlist):
    scores = score_models(
        {"student": (toy_model(), toy_tokenizer)},
        wordlist=short_wordlist,
        documents=[],
        prompts=[],
        settings=ScoreConfig(bootstrap=5),
    )
    markdown = report_markdown(RECIPE, scores)
    assert "- perplexity of student: undefined: no document gave a usable value." in markdown.replace("\\", "")
    print_table(scores, Console(file=io.StringIO()))


def test_three_groups(toy_model, toy_tokenizer, tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("a|x\tb\tc\nking\tqueen\tbook\n", encoding="utf-8")
    scores = score_models(
        {"student": (toy_model(), toy_tokenizer)},
        wordlist=load_wordlist(path),
        documents=["The king and the queen saw him and her."],
        prompts=load_prompts()[:4],
        settings=ScoreConfig(samples=1, max_new_tokens=3, bootstrap=5),
    )
    for table in _tables(report_markdown(RECIPE, scores)):
        assert len({len(row) for row in table}) == 1


# ------------------------------------------------------------------------------------------------------------- files


def test_everything_is_written_and_printed(scores, tmp_path):
    (tmp_path / "student").mkdir()
    out = io.StringIO()
    write_report(RECIPE, scores, COUNTS, tmp_path, Console(file=out, width=160))
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("# Report")
    front = (tmp_path / "student" / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert yaml.safe_load(front)["library_name"] == "transformers"
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not (tmp_path / "baseline").exists()
    printed = out.getvalue()
    for metric in scores["models"]["student"]:
        assert METRICS[metric].CARD.label in printed
    assert number(scores["models"]["student"]["perplexity"]["value"]) in printed
    assert "student - baseline" in printed
