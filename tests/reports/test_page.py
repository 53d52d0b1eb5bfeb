"""report.html, read by a parser that is not ours: what is on it, and that nothing foreign becomes markup."""

import copy
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.data.counts import PackingCounts
from distill.metrics import CARDS, card_dicts
from distill.objective.kd_loss import LossParts
from distill.recipe import Recipe, ScoreConfig, TargetConfig
from distill.reports.findings import Scored, cell, headline
from distill.reports.page import marked, run_page, trade_off_point
from distill.scoring.score import score_models
from distill.text.prompts import Prompt
from distill.text.wordlist import load_wordlist

RECIPE = Recipe(
    output_dir="outputs/try",
    target=TargetConfig(op="expmean", reverse_roles=True, augment=True),
    trainer={"hub_token": "hf_secret", "max_steps": 3},
)
COUNTS = PackingCounts(documents=10, edited_documents=7, tokens=123, blocks=4)
HISTORY = [{"step": 1, "loss": 2.0, "loss_kd": 1.5, "loss_ce": 0.5}, {"step": 2, "loss_kd": 1.0, "loss_ce": 0.4}]
TRAINING = {
    name: {"history": HISTORY, "seconds": 93.0, "student_tokens": 5000, "teacher_tokens": 9000}
    for name in ("student", "baseline")
}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"
VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """The page as a list of elements [tag, attributes, text], its visible text, and all of its HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements, self.text, self._open = [], "", []
        self.html = html
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self.elements[self._open.pop()][0] == tag
        self.text += " "

    def handle_data(self, data):
        for index in self._open:
            self.elements[index][2] += data
        if not any(self.elements[index][0] == "style" for index in self._open):
            self.text += data

    def all(self, tag, **wanted):
        return [e for e in self.elements if e[0] == tag and wanted.items() <= e[1].items()]


@pytest.fixture(scope="module")
def page(toy_scores):
    return Page(run_page(RECIPE, toy_scores, COUNTS, TRAINING))


def spaced(text: str) -> str:
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


def test_texts_by_people_have_rows_of_their_own(toy_scores):
    scores = copy.deepcopy(toy_scores)
    for of_model in scores["models"].values():
        of_model["fairness_ratio_min"] = of_model["neutral_rate"] | {"details": {"reference": {"value": 0.125}}}
    scores["cards"] |= card_dicts(["fairness_ratio_min"])
    assert len(Page(run_page(RECIPE, scores)).text.split("people's texts: fairness ratio, minimum")) == 2


def test_every_part_of_a_report_is_there(page, toy_scores):
    headings = [text for tag, _, text in page.elements if tag == "h2"]
    assert headings == [
        "Scores", "Whom each subject makes the model expect", "Disparity against perplexity",
        "P(she) : P(he) after some prompts", "The parts of the loss", "Texts, before and after",
        "What the word list covers", "How the student was made", "How it was measured",
        "What was not measured, and why", "Limits",
    ]  # fmt: skip
    text = spaced(page.text)
    assert headline(toy_scores) in text
    for known in (
        "seed", toy_scores["settings"]["wordlist"]["sha256"], toy_scores["settings"]["weights"]["student"],
        toy_scores["versions"]["torch"], "93 s", "5,000", "9,000", "7 of 10 documents",
    ):  # fmt: skip
        assert known in text
    assert all(heading[1]["id"] for heading in page.all("h2"))
    links = [a[1]["href"] for a in page.all("a")]
    assert {link.removeprefix("#") for link in links} == {heading[1]["id"] for heading in page.all("h2")}


def test_scored_checkpoints_have_the_page_of_a_run_but_for_how_they_were_made(page, toy_scores, tmp_path):
    """The same template, so that whatever a run's page shows of its scores is there too."""
    checkpoints = {name: f"models/{name}" for name in toy_scores["models"]}
    scored = Page(run_page(Scored(tmp_path, checkpoints), toy_scores))
    headings = [text for tag, _, text in scored.elements if tag == "h2"]
    of_training = {"The parts of the loss", "How the student was made"}
    of_run = [text for tag, _, text in page.elements if tag == "h2" and text not in of_training]
    assert [text for text in headings if text != "Versions, seed and hashes"] == of_run
    text = spaced(scored.text)
    assert headline(toy_scores) in text
    for known in (*checkpoints.values(), toy_scores["settings"]["weights"]["student"], toy_scores["versions"]["torch"]):
        assert known in text
    assert "The whole recipe" not in text
    links = [a[1]["href"] for a in scored.all("a")]
    assert {link.removeprefix("#") for link in links} == {heading[1]["id"] for heading in scored.all("h2")}


def test_more_models_than_marks_are_told_apart_by_numbers(toy_scores, tmp_path):
    scores = copy.deepcopy(toy_scores)
    scores["models"]["fourth"] = copy.deepcopy(scores["models"]["student"])
    text = spaced(Page(run_page(Scored(tmp_path, {}), scores)).text)
    for number, name in enumerate(scores["models"], start=1):
        assert f"{number} {name}" in text


def test_the_table_has_every_metric_of_every_model_with_direction_and_ideal(page, toy_scores):
    text = spaced(page.text)
    for metric, entry in toy_scores["models"]["student"].items():
        cells = [cell(of_model[metric]) for of_model in toy_scores["models"].values()]
        row = " ".join([CARDS[metric].label, *cells])
        assert re.search(f"{re.escape(row)} .*? {re.escape(entry['direction'])}", text), metric


def test_every_occupation_and_model_has_its_mark(page, toy_scores):
    subjects = toy_scores["models"]["student"]["next_word_disparity"]["details"]["subjects"]
    titles = [text for tag, _, text in page.elements if tag == "title"]
    for subject in subjects:
        for model in ("plain student", "mitigated student"):
            assert sum(title.startswith(f"{subject}, {model}: ") for title in titles) == 1
    assert len(page.all("polyline")) == 4  # two parts of the loss of two students


def test_the_disparity_while_training_is_drawn_beside_the_teachers(toy_scores):
    def record(values, **beside):
        entries = [
            {"step": step, "next_word_disparity_so_far": value, "next_word_mean_so_far": -value}
            for step, value in values.items()
        ]
        return {"history": [*HISTORY, *entries], **beside}

    teacher = {"teacher_next_word_disparity_so_far": 1.25, "teacher_next_word_mean_so_far": 0.5}
    training = {"baseline": record({0: 1.0, 100: 0.9}, **teacher), "student": record({0: 1.0, 50: 0.5}, **teacher)}
    found = Page(run_page(RECIPE, toy_scores, COUNTS, training))
    drawn = [a[1]["class"] for a in found.all("polyline")][4:]  # behind those of the loss
    assert drawn == ["curve teacher", "curve plain", "curve mitigated"] * 2
    level, plain, mitigated = ([tuple(map(float, point.split(","))) for point in a[1]["points"].split()]
                               for a in found.all("polyline")[4:7])  # fmt: skip
    assert level[0][1] == level[1][1] < plain[0][1]  # 1.25 lies above 1.0; y grows downwards
    assert plain[0] == mitigated[0] and mitigated[1][0] == (plain[0][0] + plain[1][0]) / 2
    text = spaced(found.text)
    assert "The disparity while the students trained" in text
    assert "0 1.000 1.000 50 – 0.500 100 0.900 –" in text
    assert "The disparity while" not in spaced(Page(run_page(RECIPE, toy_scores, COUNTS, TRAINING)).text)


def test_listed_words_are_marked_by_group(page, toy_scores):
    prompts = [prompt for prompt in toy_scores["examples"]["prompts"] if prompt["words"]]
    assert [prompt["prompt"] for prompt in prompts] == ["The man said that", "The woman said that"]
    for word, style, group in (("man", "g0", "male"), ("woman", "g1", "female")):
        assert ["mark", {"class": style, "title": group}, word] in page.elements


def test_nothing_is_loaded_and_nothing_can_run(page):
    for tag, attributes, _ in page.elements:
        assert tag not in ("script", "iframe", "object", "img", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "src", "action", "xlink:href"):
                assert value.startswith(("#", "data:,"))
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0][1]["content"]
    assert policy.startswith("default-src 'none'")


def test_tokens_are_not_shown(page):
    assert "hf_secret" not in page.html
    assert "max_steps: 3" in page.text


def test_hostile_names_prompts_and_texts_stay_text(toy_scores):
    scores = copy.deepcopy(toy_scores)
    for prompt in scores["examples"]["prompts"]:
        prompt["prompt"] = HOSTILE
        prompt["models"][HOSTILE] = prompt["models"].pop("teacher")
        for of_model in prompt["models"].values():
            of_model["text"] = HOSTILE
    details = scores["models"]["student"]["next_word_disparity"]["details"]
    for of_model in scores["models"].values():
        of_subject = of_model["next_word_disparity"]["details"]
        of_subject["subjects"] = {HOSTILE: next(iter(details["subjects"].values()))}
        of_subject["groups"] = [HOSTILE, "b"]
    scores["settings"]["wordlist"] |= {"name": HOSTILE, "groups": [HOSTILE, "b"]}
    scores["versions"]["device"] = HOSTILE
    scores["models"][HOSTILE] = scores["models"].pop("teacher")
    training = TRAINING | {HOSTILE: TRAINING["student"]}
    page = Page(run_page(Recipe(output_dir=f"outputs/{HOSTILE}", seed=1), scores, COUNTS, training))
    assert not page.all("script")
    assert not page.all("img")
    assert HOSTILE in page.text


@settings(max_examples=50)
@given(st.text(max_size=60), st.data())
def test_marking_changes_no_character(text, data):
    ends = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6, unique=True)))
    words = [[a, b, data.draw(st.integers(0, 1))] for a, b in zip(ends[::2], ends[1::2], strict=False)]
    html = marked(text, words, ["m", "f"])
    # A parser turns carriage returns and NUL into others, as browsers do; what is left must be the text.
    page = Page(f"<p>{html}</p>")
    assert page.elements[0][2] == text
    assert [(e[1]["title"], e[2]) for e in page.all("mark")] == [("mf"[g], text[a:b]) for a, b, g in words]


def test_three_groups(toy_model, toy_tokenizer, tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("a\tb\tc\nking\tqueen\tbook\nman\twoman\tnurse\n", encoding="utf-8")
    scores = score_models(
        {"teacher": (toy_model(), toy_tokenizer), "student": (toy_model(seed=1), toy_tokenizer)},
        wordlist=load_wordlist(path),
        documents=["The king saw him."],
        prompts=[Prompt(f"The doctor said {i}", "all", f"s{i}") for i in range(5)],
        settings=ScoreConfig(samples=1, max_new_tokens=3, bootstrap=5),
    )
    page = Page(run_page(RECIPE, scores))
    assert "further apart →" in page.text
    assert {e[1]["class"] for e in page.all("mark") if "title" in e[1]} >= {"g0", "g1", "g2"}
    assert "left no record of its training" in page.text


def test_few_scores_and_an_older_file_make_a_page_too(toy_scores):
    older = copy.deepcopy(toy_scores)
    del older["examples"], older["settings"]["weights"]
    for of_model in older["models"].values():
        of_model["next_word_disparity"]["details"]["subjects"] = {}
        of_model["perplexity"] |= {"value": None, "low": None, "high": None}
    page = Page(run_page(RECIPE, older))
    assert "Texts, before and after" not in page.text
    assert points(Page(run_page(RECIPE, toy_scores))) and not points(page)
    alone = {**older, "models": {"student": older["models"]["student"]}, "differences": {}}
    assert Page(run_page(RECIPE, alone)).all("h2")


def points(page: Page) -> list:
    """The marks that stand in a figure; those of a legend have their places in pixels."""
    return [mark for mark in page.all("use") if mark[1]["x"].endswith("%")]


def test_intervals_of_a_signed_score_become_those_of_its_size(toy_scores):
    entry = {"value": -0.2, "low": -0.3, "high": 0.1}
    x, y = trade_off_point({"value": 9.0, "low": 8.0, "high": 10.0}, entry, ("x", "y"), "plain", "t")
    assert (x.value, y.value, y.low, y.high) == (9.0, 0.2, 0.0, 0.3)
    _, y = trade_off_point(x.__dict__, entry | {"high": -0.1}, ("x", "y"), "plain", "t")
    assert (y.low, y.high) == (0.1, 0.3)
    assert trade_off_point(x.__dict__, entry | {"value": None}, ("x", "y"), "plain", "t") is None


def test_a_page_is_light(toy_scores):
    scores = copy.deepcopy(toy_scores)
    mean = next(iter(scores["models"]["student"]["next_word_disparity"]["details"]["subjects"].values()))
    for of_model in scores["models"].values():
        of_model["next_word_disparity"]["details"]["subjects"] = {f"occupation {i}": mean for i in range(2000)}
    html = run_page(RECIPE, scores, COUNTS, TRAINING)
    assert len(html.encode()) < 500_000
    assert "1920 subjects, which lean less" in html


def test_every_part_of_the_loss_has_its_curve(toy_scores):
    parts = set(LossParts._fields) - {"total", "count"}
    history = [{"step": step} | {f"loss_{part}": 1 / step for part in parts} for step in (1, 2, 3)]
    drawn = {
        len(Page(run_page(RECIPE, toy_scores, COUNTS, {"student": {"history": of, "seconds": 1.0}})).all("polyline"))
        for of in (history, [{"step": entry["step"], "loss_kd": entry["loss_kd"]} for entry in history])
    }
    assert drawn == {len(parts), 1}
