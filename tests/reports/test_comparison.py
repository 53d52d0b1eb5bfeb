"""distill report: which runs it takes, what it compares, and a CSV that no spreadsheet runs."""

import copy
import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from shared import REPOSITORY

from distill.base.errors import UserError
from distill.cli import main
from distill.metrics import card_dicts
from distill.recipe import PrivacyConfig, Recipe, TargetConfig, write_recipe
from distill.reports.comparison import (
    FILES,
    comparison_markdown,
    differing,
    harmless,
    read_runs,
    score_records,
    warnings,
    write_comparison,
)
from distill.reports.findings import cell, cost_of, headline
from distill.scoring.scores_file import write_scores

HOSTILE = '=cmd|"/c calc"!A1 <script>alert(1)</script> | `x`'


def make_run(folder, scores, **recipe):
    """A finished run, without its models."""
    folder.mkdir(parents=True)
    write_scores(scores, folder / "scores.json")
    write_recipe(Recipe(output_dir=str(folder), **recipe), folder / "recipe.yaml")
    return str(folder)


@pytest.fixture
def runs(toy_scores, tmp_path):
    """Folders of two runs that differ in their target and in everything that was scored."""
    other = copy.deepcopy(toy_scores)
    for of_model in other["models"].values():
        for entry in of_model.values():
            entry["value"] += 1
    other["settings"]["held_out"]["sha256"] = "f" * 64
    mitigated = TargetConfig(op="expmean", augment=True)
    return [
        make_run(tmp_path / "one", toy_scores, target=mitigated, trainer={"hub_token": "hf_secret"}),
        make_run(tmp_path / "two", other, seed=1),
    ]


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------------------------------- input


def test_runs_and_checkpoints_are_found(runs, toy_scores):
    one, student = read_runs([runs[0], f"{runs[1]}/student"])
    assert (one.label, student.label) == ("one", "two/student")
    assert list(one.scores["models"]) == ["teacher", "baseline", "student"]
    assert list(student.scores["models"]) == ["student"]
    assert student.scores["differences"] == {}
    assert (one.mitigated, student.mitigated) == (True, False)
    assert read_runs([f"{runs[0]}/scores.json", runs[0]]) == [one]


def test_runs_of_one_name_keep_their_paths(toy_scores, tmp_path):
    paths = [make_run(tmp_path / parent / "run", toy_scores) for parent in "ab"]
    assert [run.label for run in read_runs(paths)] == paths
    assert len(read_runs([paths[0], paths[0]])) == 1


def test_what_has_no_scores_is_named_with_a_way_out(runs, tmp_path):
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "empty", "distill score"),
        (tmp_path / "nowhere", "distill score"),
        (f"{runs[0]}/cache", "has no model cache; it has: teacher, baseline, student"),
    ):
        assert main(["report", str(path), "--output", str(tmp_path / "out")]) == 2
        with pytest.raises(UserError, match=message):
            read_runs([str(path)])
    assert not (tmp_path / "out").exists()


def test_a_damaged_recipe_is_the_users_matter(runs, tmp_path, capsys):
    for damaged, said in (("a: [", "recipe.yaml, line 1: not valid YAML"), ("- a list", "recipe.yaml: a recipe holds")):
        (tmp_path / "one" / "recipe.yaml").write_text(damaged, encoding="utf-8")
        assert main(["report", runs[0], "--output", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ output


def test_the_command_writes_a_page_markdown_and_csv(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["report", *runs, "--output", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    shown = capsys.readouterr().out
    for run in read_runs(runs):
        assert f"{run.label}: {headline(run.scores)}" in shown
        assert run.label in (out / "report.html").read_text(encoding="utf-8")
    assert shown.splitlines()[-1] == str(out / "report.html")
    assert main(["report", *runs, "--output", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == score_records(read_runs(runs))


def test_a_runs_own_report_is_never_overwritten(runs, capsys):
    assert main(["report", *runs, "--output", runs[0]]) == 2
    assert "choose another --output" in capsys.readouterr().err


def test_the_csv_has_every_number_as_a_number(runs, tmp_path):
    found = read_runs(runs)
    write_comparison(found, tmp_path / "out")
    rows = read_csv(tmp_path / "out" / "scores.csv")
    scores = found[0].scores["models"]
    assert len(rows) == 2 * sum(map(len, scores.values()))
    for row in rows:
        if row["run"] == "one":
            entry = scores[row["model"]][row["score"]]
            assert float(row["value"]) == entry["value"]
            assert row["low"] == ("" if entry["low"] is None else str(entry["low"]))
    ratio = found[0].scores["differences"]["student - baseline"]["perplexity"]["ratio"]
    (row,) = (r for r in rows if (r["run"], r["model"], r["score"]) == ("one", "student", "perplexity"))
    assert float(row["ratio_to_plain"]) == ratio
    assert {row["ratio_to_plain"] for row in rows if row["model"] == "teacher"} == {""}


def test_negative_numbers_are_not_quoted_and_formulas_are(toy_scores, tmp_path):
    scores = copy.deepcopy(toy_scores)
    scores["models"] = {HOSTILE: scores["models"]["student"]}
    del scores["examples"]  # of models that are no longer there
    scores["models"][HOSTILE]["perplexity"] |= {"value": -3.5}
    scores["differences"] = {}
    write_comparison(read_runs([make_run(tmp_path / "=run", scores)]), tmp_path / "out")
    row = next(row for row in read_csv(tmp_path / "out" / "scores.csv") if row["score"] == "perplexity")
    assert (row["run"], row["model"], row["value"]) == ("'=run", f"'{HOSTILE}", "-3.5")


def test_a_comparison_replaces_links_and_does_not_follow_them(toy_scores, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "out").mkdir()
    for name in FILES:
        (tmp_path / "out" / name).symlink_to(precious)
    write_comparison(read_runs([make_run(tmp_path / "run", toy_scores)]), tmp_path / "out")
    assert precious.read_text() == "mine"
    assert not any((tmp_path / "out" / name).is_symlink() for name in FILES)


@given(st.text())
def test_no_text_begins_like_a_formula(text):
    shown = harmless(text)
    assert not re.match(r"[=+\-@\t\r]", shown)
    assert shown in (text, f"'{text}")


def test_hostile_names_stay_text_on_page_and_in_markdown(toy_scores, tmp_path):
    scores = copy.deepcopy(toy_scores)
    scores["models"] = {HOSTILE: scores["models"]["student"]}
    del scores["examples"]  # of models that are no longer there
    scores["differences"] = {}
    write_comparison(read_runs([make_run(tmp_path / "run", scores)]), tmp_path / "out")
    for name in ("report.html", "report.md"):
        content = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "<script" not in content
        assert "&lt;script" in content
    rows = [line for line in content.splitlines() if line.startswith("| 1 |")]
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 3 + len(scores["models"][HOSTILE])


def test_the_tables_hold_every_score_once(runs, tmp_path):
    found = read_runs([*runs, f"{runs[0]}/student"])  # the student a second time
    write_comparison(found, tmp_path / "out")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8").replace("\\", "")
    table = [line for line in markdown.partition("## Scores")[2].partition("##")[0].splitlines() if line[:3] != "|--"]
    names = [line.split(" | ")[1] for line in table if line.startswith("| ")][1:]
    assert names == [f"{run}: {model}" for run in ("one", "two") for model in ("teacher", "baseline", "student")]
    for of_model in found[1].scores["models"].values():
        assert cell(of_model["perplexity"]) in markdown


def test_what_differs_is_told_and_secrets_are_not(runs, tmp_path):
    found = read_runs(runs)
    rows = {name: values for name, *values in differing(found)}
    assert rows["target.op"] == ["expmean", "none"]
    assert rows["target.augment"] == ["true", "false"]
    assert rows["seed"] == ["0", "1"]
    assert "held-out text" in rows
    assert "word list" not in rows
    assert "output_dir" not in rows
    assert "Not measured alike: held-out text differ" in warnings(found)[0]
    assert differing(found[:1]) == warnings(found[:1]) == []
    write_comparison(found, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if "hf_secret" in path.read_text(encoding="utf-8")]
    assert "hf_secret" in yaml.safe_load((tmp_path / "one" / "recipe.yaml").read_text())["trainer"]["hub_token"]


def test_how_many_processes_trained_is_told_where_it_differs(runs, toy_scores, tmp_path):
    """The recipe does not tell: accelerate starts one for each GPU, and a step reads as many times the blocks."""
    same = make_run(tmp_path / "three", copy.deepcopy(toy_scores), seed=1)
    for folder, processes in zip((runs[1], same), (1, 8), strict=True):
        (Path(folder) / "inputs.json").write_text(json.dumps({"processes": processes}), encoding="utf-8")
    told = "processes, each with blocks of its own"
    rows = {name: values for name, *values in differing(read_runs([*runs, same]))}
    assert rows[told] == ["–", "1", "8"]  # an older run has no record
    assert told not in {name for name, *_ in differing(read_runs([same, same]))}
    assert told not in warnings(read_runs([runs[1], same]))[0]
    for folder in (runs[1], same):
        private = Recipe(output_dir=str(folder), privacy=PrivacyConfig(epsilon=8.0))
        write_recipe(private, Path(folder) / "recipe.yaml")
    assert told not in {name for name, *_ in differing(read_runs([runs[1], same]))}  # private steps are the same


@pytest.mark.parametrize("change", ["chat", "read"])
def test_prompts_in_a_template_and_other_windows_are_not_measured_alike(change, runs, toy_scores, tmp_path):
    """Both change the values, and neither stands in the digests of prompts and texts."""
    other = copy.deepcopy(toy_scores)
    if change == "chat":
        other["settings"]["prompts"]["chat"] = True
    else:
        for of_model in other["settings"]["models"].values():
            of_model["read"] = 32
    told = {"chat": ("chat template around prompts", ["–", "true"]), "read": ("tokens read at once", ["64", "32"])}
    found = read_runs([runs[0], make_run(tmp_path / "three", other)])
    what, values = told[change]
    assert {name: values for name, *values in differing(found)}[what] == values
    assert f"Not measured alike: {what} differ" in warnings(found)[0]
    same = read_runs([runs[0], make_run(tmp_path / "four", copy.deepcopy(toy_scores))])
    assert "Not measured alike" not in warnings(same)[0]


def test_continuations_that_another_model_judged_are_not_measured_alike(toy_scores, tmp_path):
    """The judge is the first model that was scored: in other files it is another, also in older ones."""
    folders = []
    for first, judged in (("a", True), ("a", True), ("b", True), ("c", False)):
        scores = copy.deepcopy(toy_scores)
        scores["settings"]["weights"]["teacher"] = first * 64
        for of_model in scores["models"].values():
            of_model["continuation_perplexity"] = of_model["perplexity"] | ({} if judged else {"value": None})
        folders.append(make_run(tmp_path / str(len(folders)), scores))
    one, same, other, silent = folders
    told = "Not measured alike: first model, which judges continuations differ"
    assert told in warnings(read_runs([one, other]))[0]
    assert told in warnings(read_runs([one, f"{other}/student"]))[0]
    assert not any("Not measured alike" in line for line in warnings(read_runs([one, same, silent])))


def test_what_models_remember_stands_last_with_its_warning(toy_scores, tmp_path):
    """Without a reference, the loss of a hard text is no lack of memory: a table alone does not show it."""
    asked = {"members": 100, "others": 100, "reference_alone_auc": 0.5, "reference": "none", "control": "none: chance"}
    runs = {}
    for name, reference in (("plain", "yes"), ("bare", "none")):
        scores = copy.deepcopy(toy_scores)
        for model, of_model in scores["models"].items():
            entry = of_model["perplexity"] | {"details": asked | {"reference": reference}}
            scores["models"][model] = {"membership_excess_auc": entry} | of_model
        scores["cards"] = card_dicts(["membership_excess_auc"]) | scores["cards"]
        runs[name] = make_run(tmp_path / name, scores)
    found = read_runs(list(runs.values()))
    told = "bare: what it remembers, without a reference or a control: how hard a text is counts, too."
    assert [line for line in warnings(found) if "remembers" in line] == [told]
    write_comparison(found, tmp_path / "out")
    for name in ("report.html", "report.md"):
        assert told in (tmp_path / "out" / name).read_text(encoding="utf-8").replace("\\", "")
    (headings, *_) = [line for line in comparison_markdown(found).splitlines() if line.startswith("| no. |")]
    assert headings.endswith("| membership, excess AUC |")


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("toxicity_model", "classifier of toxicity"),
        ("regard_model", "classifier of regard"),
        ("word_vectors", "word vectors"),
        ("audited", "audited texts"),
        ("reference", "reference of the audit"),
        ("control", "control of the audit"),
        ("", "benchmark files of bbq"),
        ("conversations", "chat template around held-out text"),
    ],
)
def test_what_else_was_read_is_compared_where_both_runs_tell_it(key, what, toy_scores, tmp_path):
    def run(name, told):
        scores = copy.deepcopy(toy_scores)
        if key == "conversations" and told:
            for facts in scores["settings"]["models"].values():
                facts["conversations"] = told
        elif key and told:
            scores["settings"]["measured_with"] = {key: told}
        elif told:
            scores["models"]["student"]["minimal_pairs"]["details"]["benchmark_files"] = {"bbq": told}
        return make_run(tmp_path / name, scores)

    by_folder = " ".join if key in ("reference", "control") else max  # of a folder: its weights and its tokenizer
    told = [by_folder([letter * 64, letter * 64]) for letter in "ab"]
    one, two, silent = (run(name, of) for name, of in zip(("one", "two", "silent"), (*told, None), strict=True))
    unlike = read_runs([one, two, silent])
    shown = [by_folder([f"{letter * 12}…", f"{letter * 12}…"]) for letter in "ab"]
    assert [what, *shown, "–"] in differing(unlike)
    assert f"Not measured alike: {what} differ between" in warnings(unlike)[0]
    alike = read_runs([one, silent])  # of an older version, or without that score
    assert not differing(alike)
    assert "Not measured alike" not in warnings(alike)[0]


def test_a_chat_template_is_compared_by_one_text_alone(toy_scores, tmp_path):
    """Other conversations give another hash, too: that is told of the text, and the figure stands as for other text."""

    def run(name, text, conversations):
        scores = copy.deepcopy(toy_scores)
        scores["settings"]["held_out"]["sha256"] = text * 64
        for facts in scores["settings"]["models"].values():
            facts["conversations"] = conversations * 64
        return make_run(tmp_path / name, scores)

    one, other_text, other_template = run("one", "a", "c"), run("text", "b", "d"), run("template", "a", "d")
    files = [read.scores for read in read_runs([one, other_text])]
    assert not any(row[0].startswith("chat template") for row in differing(read_runs([one, other_text])))
    assert cost_of(files[0], files) != ""
    files = [read.scores for read in read_runs([one, other_template])]
    assert any(row[0].startswith("chat template") for row in differing(read_runs([one, other_template])))
    assert cost_of(files[0], files) == ""


def test_a_report_loads_neither_torch_nor_a_metric(runs, tmp_path):
    """Of files that carry their cards; the whole command, in a process of its own."""
    code = "import sys\nfrom distill.cli import main\n"
    code += f"assert main(['report', *{runs!r}, '--output', {str(tmp_path / 'out')!r}]) == 0\n"
    code += "import distill.reports.report, distill.reports.model_card, distill.reports.side_by_side\n"
    code += "heavy = ('torch', 'transformers', 'datasets', 'evaluate', 'accelerate')\n"
    code += "print('HEAVY', [m for m in sys.modules if m in heavy or m.startswith(('distill.metrics', 'distill.mod'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_an_older_file_beside_a_new_one_is_called_alike(runs, toy_scores, tmp_path):
    older = {key: value for key, value in toy_scores.items() if key not in ("cards", "not_asked")}
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "scores.json").write_text(json.dumps(older), encoding="utf-8")
    new, old = read_runs([runs[0], str(tmp_path / "older")])
    assert old.scores["cards"] == new.scores["cards"]
