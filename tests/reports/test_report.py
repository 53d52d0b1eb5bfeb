"""report.md and the terminal's table, with foreign text in them."""

import copy
import io
import json
import re
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from distill.base.markdown_text import escape
from distill.data.counts import PackingCounts
from distill.metrics import CARDS, card_dicts
from distill.recipe import FederationConfig, PrivacyConfig, Recipe, ScoreConfig, TargetConfig
from distill.reports.findings import cell, client_table, headline, number, ratio_cell, round_table, training_rows
from distill.reports.page import run_page
from distill.reports.report import print_table, read_training, report_markdown, with_speeds, write_report
from distill.scoring.score import score_models
from distill.text.prompts import load_prompts
from distill.text.wordlist import load_wordlist

RECIPE = Recipe(output_dir="outputs/try", target=TargetConfig(op="expmean", reverse_roles=True, augment=True))
COUNTS = PackingCounts(documents=10, edited_documents=7, tokens=123, blocks=4)


def test_the_terminal_says_what_was_not_measured_and_why(scores):
    scores = copy.deepcopy(scores)
    details = {"reason": "no classifier of toxicity"}
    scores["models"]["student"]["toxicity_rate"] = scores["models"]["student"]["perplexity"] | {
        "value": None, "low": None, "high": None, "details": details,
    }  # fmt: skip
    scores["cards"] |= card_dicts(["toxicity_rate"])
    out = io.StringIO()
    print_table(scores, Console(file=out, width=120))
    assert "not measured: toxic texts of student: no classifier of toxicity." in out.getvalue()
    (row,) = (line for line in out.getvalue().splitlines() if line.strip().startswith("toxic texts"))
    assert "not measured" in row


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


def test_an_older_file_without_coverage_is_reported_all_the_same(scores):
    older = copy.deepcopy(scores)
    del older["examples"], older["settings"]["weights"]
    older["settings"]["wordlist"] = {k: older["settings"]["wordlist"][k] for k in ("name", "groups", "sha256")}
    older["settings"]["held_out"] = {"documents": 2, "bytes": 77}
    assert "## What the word list covers" in report_markdown(RECIPE, older)


def test_training_is_read_where_it_lies_and_damage_is_left_out(tmp_path):
    assert read_training(tmp_path) == {}
    (tmp_path / "training").mkdir()
    record = {"seconds": 93.2, "student_tokens": 1234567, "tokens_per_second": 13246.4, "history": []}
    broken = {"half": "{", "list": "[]", "words": '{"seconds": "an hour"}', "nan": '{"seconds": NaN}'}
    broken |= {"no_worst": '{"over_clients": {"perplexity": {"mean": 1.5}}}', "no_scores": '{"over_clients": [1]}'}
    broken |= {"too_deep": "[" * 100_000}
    broken |= {"no_list": '{"history": 1}', "deep": '{"history": [{"step": [1]}]}', "flat": '{"history": [1]}'}
    over = {"clients": 3, "mean": 0.2, "spread": 0.5, "least": -0.5, "largest": 1.0, "worst": 1.0, "worst_client": 7}
    private = record | {"privacy": {"epsilon": 8.0, "accountant": "prv"}, "over_clients": {"perplexity": over}}
    for name, content in {"student": json.dumps(record), "private": json.dumps(private), **broken}.items():
        (tmp_path / "training" / f"{name}.json").write_text(content, encoding="utf-8")
    training = read_training(tmp_path)
    assert training == {"private": private, "student": record}
    del training["private"]
    assert training_rows(training) == [["student", "93 s", "1,234,567", "–", "13,246"]]
    assert training_rows({"student": {}}) == [["student", "–", "–", "–", "–"]]
    (row,) = training_rows({"student": record | {"matrix_rate_share": 0.3281}})
    assert row[-1] == "13,246 (32.8% of the matrix rate)"


def test_rounds_of_a_federation_stand_in_a_table_of_their_own(scores):
    logs = [
        {"step": 5, "round": 1, "clients": 7, "left_out": 1, "loss": 1.25, "score_perplexity": 200.0},
        {"step": 10, "round": 2, "clients": 8, "left_out": 0, "loss": 0.75},
    ]
    training = {"student": {"history": logs}, "baseline": {"history": [{"step": 5, "loss": 1.0}]}}
    assert round_table(scores, training) == (
        ["model", "round", "clients", "left out", "loss", "perplexity"],
        [["student", "1", "7", "1", "1.250", "200.0"], ["student", "2", "8", "0", "0.750", "–"]],
    )
    recipe = replace(RECIPE, federation=FederationConfig(clients=8, fraction=0.5, periods=2))
    report = report_markdown(recipe, scores, training=training)
    assert [["student", "1", "7", "1", "1.250", "200.0"], ["student", "2", "8", "0", "0.750", "–"]] in [
        table[2:] for table in _tables(report)
    ]
    assert (
        "8 clients, 50% of them a round, drawn by uniform; 3 rounds of 10 steps; text shared out by quantity" in report
    )
    assert "Rounds, each" not in report_markdown(RECIPE, scores, training={"baseline": training["baseline"]})
    assert "<h3>Rounds</h3>" in run_page(recipe, scores, training=training)
    assert "<h3>Rounds</h3>" not in run_page(RECIPE, scores)


def test_scores_over_clients_stand_in_a_table_of_their_own(scores):
    over = {"clients": 3, "mean": 0.25, "spread": 0.5, "least": -0.5, "largest": 1.0, "worst": 1.0, "worst_client": 7}
    training = {"student": {"history": [], "over_clients": {"corpus_disparity": over}}, "baseline": {"history": []}}
    row = ["student", "corpus disparity", "3", "0.250", "0.500", "-0.500", "1.000", "client 7, 1.000"]
    assert client_table(scores, training)[1] == [row]
    report = report_markdown(RECIPE, scores, training=training)
    assert [[cell.replace("\\", "") for cell in row] for table in _tables(report) for row in table].count(row) == 1
    assert "<h3>Scores over clients</h3>" in run_page(RECIPE, scores, training=training)
    assert "<h3>Scores over clients</h3>" not in run_page(RECIPE, scores)


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
    labels = [CARDS[metric].label for metric in scores["models"]["student"]]
    assert [row[0] for row in rows] == [*labels, "weights, millions", "megabytes in memory"]
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
        assert CARDS[metric].label in printed
    assert number(scores["models"]["student"]["perplexity"]["value"]) in printed
    assert "student - baseline" in printed


@pytest.mark.parametrize(("processes", "private", "told"), [(8, False, True), (1, False, False), (8, True, False)])
def test_a_report_and_a_card_tell_how_many_processes_shared_out_a_step(scores, tmp_path, processes, private, told):
    """Which the recipe does not; private steps are the same for any number."""
    (tmp_path / "student").mkdir()
    (tmp_path / "inputs.json").write_text(json.dumps({"processes": processes}), encoding="utf-8")
    recipe = replace(RECIPE, privacy=PrivacyConfig(epsilon=8.0 if private else None))
    write_report(recipe, scores, COUNTS, tmp_path, Console(file=io.StringIO()))
    for name in ("report.md", "report.html", "student/README.md"):
        text = (tmp_path / name).read_text(encoding="utf-8").replace("\\", "")
        assert ("8: a step reads as many times the blocks of one" in text) == told


def test_columns_stay_told_apart_at_80_characters(scores):
    """Whatever the number of models and the length of what stands in a number's place."""
    many = copy.deepcopy(scores)
    for i in range(4):
        many["models"][f"another-model-{i}"] = copy.deepcopy(many["models"]["student"])
    details = many["models"]["student"]["corpus_disparity"]["details"]
    details["instead"] = details["reason"] = "too little to tell: listed words hold 0.2% of the probability"
    many["models"]["student"]["corpus_disparity"] |= {"value": None, "low": None, "high": None}
    out = io.StringIO()
    print_table(many | {"differences": {}}, Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    heads = [line for line in text.splitlines() if line.strip().startswith("score ")]
    assert [line.count("│") for line in heads] == [5, 5, 3]  # three, three and one model
    assert "not measured: corpus disparity" not in text  # it stands in the table
    assert "too little" in text


def test_long_names_of_models_break_where_a_reader_would(scores):
    named = {"openai-community/gpt2": scores["models"]["teacher"], "my_runs/student": scores["models"]["student"]}
    out = io.StringIO()
    print_table({**scores, "models": named, "differences": {}}, Console(file=out, width=80))
    heads = [[cell.strip() for cell in line.split("│")] for line in out.getvalue().splitlines()[2:5]]
    assert [row[1:3] for row in heads] == [["openai-", ""], ["community/", "my_runs/"], ["gpt2", "student"]]


def test_a_report_tells_how_fast_each_phase_was_where_that_is_known(scores, tmp_path):
    (tmp_path / "student").mkdir()
    for known in (False, True):
        if known:
            taken = {"seconds": 20.0, "tokens": 54000, "tokens_per_second": 2700.0, "matrix_rate_share": 0.015}
            (tmp_path / "phases.json").write_text(json.dumps({"scoring <b>": taken}), encoding="utf-8")
        write_report(RECIPE, scores, COUNTS, tmp_path, Console(file=io.StringIO()))
        markdown, page = ((tmp_path / name).read_text() for name in ("report.md", "report.html"))
        for text in (markdown, page):
            assert ("Before and after training:" in text) == ("2,700 (1.5% of the matrix rate)" in text) == known
    row = "| scoring &lt;b&gt; | 20 s | 54,000 | 2,700 (1.5% of the matrix rate) |"
    assert row in markdown.replace("\\", "") and "<b>" not in page


def test_a_report_tells_sizes_and_speeds_beside_the_scores(scores, tmp_path):
    weights = scores["settings"]["weights"]
    speeds = {name: {"weights": digest, "tokens_per_second": 50.0} for name, digest in weights.items()}
    speeds["student"] |= {"tokens_per_second": 75.0}
    speeds["baseline"] |= {"weights": "of another model"}
    (tmp_path / "speed.json").write_text(json.dumps(speeds), encoding="utf-8")
    assert with_speeds(scores, tmp_path)["speed"] == {"teacher": 50.0, "student": 75.0}
    out = io.StringIO()
    (tmp_path / "student").mkdir()
    write_report(RECIPE, scores, COUNTS, tmp_path, Console(file=out, width=120))
    facts = scores["settings"]["models"]["student"]
    million = f"{facts['parameters'] / 1e6:.2f}"
    for text in (out.getvalue(), (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()):
        for known in ("weights, millions", million, "megabytes in", f"{facts['bytes'] / 1e6:.2f}", "75.0", "50.0"):
            assert known in text
    for name in ("report.md", "report.html"):
        assert "measured beside whatever else ran there" in (tmp_path / name).read_text()
        assert "what the weights took here, not the size of a file." in (tmp_path / name).read_text()
    assert out.getvalue().splitlines()[-1] == str(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "mitigated / plain</th>" in page
    assert "mitigated / teacher</th>" in page
    ratio = ratio_cell(scores["differences"]["student - teacher"]["perplexity"]).split(" [")[0]
    assert f'<span class="number">{ratio}' in page
