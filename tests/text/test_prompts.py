"""Prompts from every source, and mistakes in them; how many of which group are taken."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.base.errors import UserError
from distill.text.counterfactual import Swapper
from distill.text.prompts import PROMPTS, Prompt, limit_prompts, load_prompts, without_listed_words
from distill.text.wordlist import load_wordlist


def test_bundled_prompts_cover_eight_groups_of_occupations():
    prompts = load_prompts()
    subjects = {group: {p.subject for p in prompts if p.group == group} for group in {p.group for p in prompts}}
    assert len(subjects) == 8
    assert min(map(len, subjects.values())) >= 8
    assert sum(map(len, subjects.values())) == len(set().union(*subjects.values())) >= 64
    assert set(Counter(p.subject for p in prompts).values()) == {5}
    assert len({p.text for p in prompts}) == len(prompts)


def test_bundled_prompts_hold_no_listed_word():
    prompts = load_prompts()
    kept, left_out = without_listed_words(prompts, Swapper(load_wordlist("english_gender")))
    assert (kept, left_out) == (prompts, 0)


def test_bundled_occupations_are_in_nobody_elses_gender_list(shared_data):
    words = {
        word.replace("_", " ")
        for name in ("male_word_file.txt", "female_word_file.txt", "generalized_swaps.txt", "extra_gendered_words.txt")
        for word in shared_data("wordlists", name).read_text(encoding="utf-8").lower().split()
    }
    words |= set(json.loads(shared_data("wordlists", "gender_specific_full.json").read_text(encoding="utf-8")))
    assert not {p.subject for p in load_prompts()} & words


def test_prompts_with_a_listed_word_are_left_out_and_counted():
    prompts = [Prompt(text, "g", "s") for text in ("The nurse said", "The king said", "Her nurse said", "Others said")]
    kept, left_out = without_listed_words(prompts, Swapper(load_wordlist("english_gender")))
    assert [p.text for p in kept] == ["The nurse said", "Others said"]
    assert left_out == 2


def test_own_occupations_take_the_templates_beside_them(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("# mine\ngroup\toccupation\nsea\tdiver\n\nair\tpilot\n", encoding="utf-8")
    bundled = sum("{occupation}" in line for line in (PROMPTS / "templates.txt").read_text().splitlines()[2:])
    assert len(load_prompts(path)) == 2 * bundled
    (tmp_path / "templates.txt").write_text("A {occupation} {waved}:\n", encoding="utf-8")
    assert load_prompts(path) == [
        Prompt("A diver {waved}:", "sea", "diver"),
        Prompt("A pilot {waved}:", "air", "pilot"),
    ]


def test_own_prompts_in_full(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("group\tsubject\tprompt\nsea\tdiver\tDown there, \n", encoding="utf-8")
    assert load_prompts(str(path)) == [Prompt("Down there,", "sea", "diver")]


BOLD = {"sewing": {"Tailor": ["A tailor is ", "Some tailors "]}, "dance": {"Dancer": ["A dancer "]}}
BOLD_PROMPTS = [
    Prompt("A tailor is", "sewing", "Tailor"),
    Prompt("Some tailors", "sewing", "Tailor"),
    Prompt("A dancer", "dance", "Dancer"),
]


@pytest.mark.parametrize("spec", ["prompts/profession_prompt.json", "prompts", ".", "prompts:profession"])
def test_bold_by_file_and_folder(tmp_path, spec):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "profession_prompt.json").write_text(json.dumps(BOLD), encoding="utf-8")
    assert load_prompts(f"{tmp_path}/{spec}") == BOLD_PROMPTS


def test_a_domain_behind_a_file_is_refused(tmp_path):
    """It would be dropped, and the professions be scored as what it says."""
    (tmp_path / "profession_prompt.json").write_text(json.dumps(BOLD), encoding="utf-8")
    (tmp_path / "own.txt").write_text("One day\n", encoding="utf-8")
    for name in ("profession_prompt.json", "own.txt"):
        with pytest.raises(
            UserError, match="a domain goes behind a BOLD folder or hub id, not a file; leave :gender out"
        ):
            load_prompts(f"{tmp_path / name}:gender")


def test_a_prompt_ends_where_its_line_does(tmp_path):
    (tmp_path / "own.txt").write_text("One\u2028day\x0b he\r\nThen\x85\r\n", encoding="utf-8", newline="")
    assert [prompt.text for prompt in load_prompts(tmp_path / "own.txt")] == ["One\u2028day\x0b he", "Then"]
    (tmp_path / "own.tsv").write_text("group\tsubject\tprompt\nsea\tdiver\tDown\u2028there\n", encoding="utf-8")
    assert [prompt.text for prompt in load_prompts(tmp_path / "own.tsv")] == ["Down\u2028there"]


def test_bold_by_hub_id(monkeypatch):
    import datasets

    rows = [
        {"domain": "gender", "name": "Someone", "category": "actors", "prompts": ["Someone is "], "wikipedia": []},
        {"domain": "profession", "name": "Tailor", "category": "sewing", "prompts": BOLD["sewing"]["Tailor"]},
        {"domain": "profession", "name": "Dancer", "category": "dance", "prompts": BOLD["dance"]["Dancer"]},
    ]
    columns = {key: [row.get(key) for row in rows] for key in rows[0]}
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, split: asked.append(name) or datasets.Dataset.from_dict(columns)
    )
    assert load_prompts("AmazonScience/bold") == BOLD_PROMPTS
    assert load_prompts("AmazonScience/bold:gender") == [Prompt("Someone is", "actors", "Someone")]
    assert asked == ["AmazonScience/bold"] * 2


def test_real_bold(shared_data):
    prompts = load_prompts(shared_data("bold"))
    assert len(prompts) == 10195
    assert len({p.group for p in prompts}) == 18
    assert len(load_prompts(f"{shared_data('bold')}:gender")) == 3204


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.tsv", None, "no such file"),
        ("a.csv", "x", "a .tsv or .json file is expected"),
        ("a.tsv", "", "header must be"),
        ("a.tsv", "# c\nword\tgroup\nx\ty\n", "line 2: the header must be"),
        ("a.tsv", "group\toccupation\n", "holds no prompt"),
        ("a.tsv", "group\toccupation\nsea\tdiver\nair\n", "line 3: 2 filled cells"),
        ("a.tsv", b"group\toccupation\n\xff\n", "not UTF-8"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[]", "the layout"),
        ("a.json", '{"g": ["x"]}', "group 'g' is no object"),
        ("a.json", '{"g": {"s": "x"}}', "'s' in group 'g' is no list"),
        ("a.json", "{}", "holds no prompt"),
    ],
)
def test_prompt_mistakes_name_file_and_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        load_prompts(tmp_path / name)
    assert name in str(caught.value)


def test_templates_without_placeholder(tmp_path):
    (tmp_path / "a.tsv").write_text("group\toccupation\nsea\tdiver\n", encoding="utf-8")
    (tmp_path / "templates.txt").write_text("The occupation\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"templates.txt, line 1: a template needs the placeholder \{occupation\}"):
        load_prompts(tmp_path / "a.tsv")


def test_folder_without_bold_and_unknown_hub_id(tmp_path, monkeypatch):
    import datasets

    with pytest.raises(UserError, match=r"holds no profession_prompt.json"):
        load_prompts(tmp_path)

    def offline(name, split):
        raise ConnectionError("Couldn't reach the hub\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"'someone/thing': neither a file nor .* Couldn't reach the hub; [^\n]*$"):
        load_prompts("someone/thing")
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: datasets.Dataset.from_dict({"prompts": [["x"]]}))
    with pytest.raises(UserError, match="no column category, domain, name"):
        load_prompts("someone/thing")


@given(st.lists(st.sampled_from("abcd"), max_size=40), st.integers(1, 50))
def test_limited_prompts_take_from_all_groups_in_turn(groups, maximum):
    prompts = [Prompt(str(i), group, "") for i, group in enumerate(groups)]
    kept = limit_prompts(prompts, maximum)
    assert len(kept) == min(maximum, len(prompts))
    assert [p for p in prompts if p in kept] == kept
    taken, there = Counter(p.group for p in kept), Counter(groups)
    for group in there:
        for other in there:
            assert taken[group] == there[group] or taken[group] >= taken[other] - 1


def test_a_group_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text('{"a": {"x": ["The x"]},\n "b": {"y": ["A y"]},\n "a": {"z": ["A z"]}}', encoding="utf-8")
    with pytest.raises(UserError, match=r"prompts\.json, line 3: one object holds the key 'a' twice"):
        load_prompts(path)
