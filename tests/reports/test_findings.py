"""What reports say, in numbers, rows and sentences."""

import copy
from pathlib import Path

import pytest

from distill.data.counts import PackingCounts
from distill.metrics import card_dicts
from distill.recipe import Recipe, TargetConfig
from distill.reports.findings import (
    all_cards,
    cell,
    coverage,
    headline,
    headliners,
    in_full,
    is_hub_id,
    label,
    main_pair,
    memory_heading,
    not_measured,
    note_of,
    number,
    score_rows,
    showing,
    source_name,
    with_role,
    worse_sentence,
)
from distill.reports.page import run_page
from distill.reports.report import report_markdown

RECIPE = Recipe(output_dir="outputs/try", target=TargetConfig(op="expmean", reverse_roles=True, augment=True))

COUNTS = PackingCounts(documents=10, edited_documents=7, tokens=123, blocks=4)


def with_people(scores, reference):
    """The scores with both fairness ratios of every model, and with what texts by people score."""
    scores = copy.deepcopy(scores)
    for of_model in scores["models"].values():
        for name in ("fairness_ratio_mean", "fairness_ratio_min"):
            of_model[name] = of_model["neutral_rate"] | {"details": {"reference": reference}}
    scores["cards"] |= card_dicts(("fairness_ratio_mean", "fairness_ratio_min"))
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


def _entry(value=1.0, ratio=None, ratio_low=None, ratio_high=None):
    """Score and difference in one: enough for a headline."""
    return {"value": value, "low": None, "high": None, "ratio": ratio, "ratio_low": ratio_low, "ratio_high": ratio_high}


def _scores(names, differences):
    models = {name: {"next_word_disparity": _entry(1.114), "perplexity": _entry(137.7)} for name in names}
    cards = card_dicts(("perplexity", "corpus_disparity", "next_word_disparity", "generation_disparity"))
    return {"models": models, "differences": differences, "cards": cards}


def test_the_headline_says_what_is_left_and_what_it_costs():
    found = {
        "corpus_disparity": _entry(ratio=0.1, ratio_low=0.0, ratio_high=0.2),
        "next_word_disparity": _entry(ratio=0.4149, ratio_low=0.3551, ratio_high=0.47),
        "perplexity": _entry(ratio=1.021, ratio_low=0.9999, ratio_high=1.04),
    }
    names = ["teacher", "baseline", "student"]
    scores = _scores(names, {"student - teacher": {}, "student - baseline": found})
    sentence = (
        "59% [53%, 64%] less disparity after prompts and 90% [80%, 100%] less disparity in running text than plain "
        "distillation, for 2.1% [0.0%, 4.0%] more perplexity."
    )
    assert headline(scores) == sentence
    del found["next_word_disparity"]
    assert headline(scores).startswith("90% [80%, 100%] less disparity in running text than plain distillation, for ")
    facts = {"teacher": {"parameters": 4e6, "bytes": 16e6}, "student": {"parameters": 3e6, "bytes": 12e6}}
    sized = scores | {"settings": {"models": facts}}
    assert headline(sized).endswith(" more perplexity; 75% of the teacher's weights.")
    fast = sized | {"speed": {"teacher": 100.0, "student": 156.0}}
    assert headline(fast) == headline(sized)  # a busy machine makes any speed; the table tells it


def test_no_headline_is_made_of_a_change_that_may_be_none():
    unclear = _entry(ratio=0.56, ratio_low=0.16, ratio_high=3.75)
    clear = _entry(ratio=0.9, ratio_low=0.85, ratio_high=0.95)
    names = ["teacher", "student"]

    def said(**found):
        return headline(_scores(names, {"student - teacher": found}))

    assert said(corpus_disparity=unclear, next_word_disparity=clear).startswith("10% [5%, 15%] less disparity after")
    assert said(corpus_disparity=unclear, perplexity=clear) == (
        "No clear change of disparity beside the teacher (44% [-275%, 84%] less disparity in running text), for 10.0% "
        "[5.0%, 15.0%] less perplexity."
    )


def test_a_copy_in_fewer_bits_stands_beside_and_heads_nothing(scores):
    found = {"next_word_disparity": _entry(ratio=0.4, ratio_low=0.3, ratio_high=0.5)}
    other = {"next_word_disparity": _entry(ratio=0.9, ratio_low=0.8, ratio_high=0.95)}
    pairs = {"student - baseline": found, "student int8 - baseline": other, "student int8 - student": other}
    assert headline(_scores(["baseline", "student", "student int8"], pairs)) == (
        "60% [50%, 70%] less disparity after prompts than plain distillation. In int8: 10.0% [5.0%, 20.0%] less "
        "disparity after prompts than in full."
    )
    unclear = {"next_word_disparity": _entry(ratio=0.9, ratio_low=0.8, ratio_high=1.1)}
    alone = _scores(["demo", "demo int4"], {"demo int4 - demo": unclear})
    for model, figure in (("demo", 0.692), ("demo int4", 0.686)):
        alone["models"][model] = {"minimal_pairs": _entry(figure)}
    alone["cards"] |= card_dicts(["minimal_pairs"])
    assert headline(alone) == "Grammar, minimal pairs 0.692. In int4: no clear change of disparity."
    alone["differences"]["demo int4 - demo"]["perplexity"] = unclear["next_word_disparity"]
    assert headline(alone) == "Grammar, minimal pairs 0.692. In int4: no clear change of disparity or perplexity."
    del alone["differences"]["demo int4 - demo"]["next_word_disparity"]
    assert headline(alone) == "Grammar, minimal pairs 0.692. In int4: no clear change of perplexity."
    assert main_pair(["teacher", "student", "student int4"]) == ("student", "teacher")
    assert main_pair(["a", "a int8"]) is None
    assert main_pair(["a int8", "b int8"]) == ("b int8", "a int8")  # checkpoints that are only called so
    assert in_full("student") is in_full("int8") is in_full("a int2") is None
    assert note_of(RECIPE, "student int8") == "student with the weights of its layers in 8 bits, by torchao"
    copied = copy.deepcopy(scores)
    copied["models"]["student int4"] = copied["models"]["student"]
    names = list(scores["models"])
    copied["differences"] |= {f"student int4 - {name}": scores["differences"]["student - baseline"] for name in names}
    for shown in (report_markdown(RECIPE, copied), run_page(RECIPE, copied)):
        assert "weights of its layers in 4 bits" in shown
    assert "### student - baseline" in report_markdown(RECIPE, copied)


def test_our_english_sentences_head_no_report_on_another_language():
    worse = {"farther": 0.05, "farther_low": 0.02, "farther_high": 0.08}
    found = dict.fromkeys(("agreement_kept", "agreement_winobias_kept", "minimal_pairs", "blimp"), worse)
    scores = _scores(["teacher", "baseline", "student"], {"student - teacher": {}, "student - baseline": found})
    scores["cards"] |= card_dicts(found)
    assert "(4 of 4 scores beside" in headline(scores)
    scores["settings"] = {"wordlist": {"language": "es"}}
    told = headline(scores)
    assert "BLiMP" in told and "(1 of 1 scores beside" in told  # whoever names its file knows its language


def test_what_a_mitigation_broke_stands_in_the_headline():
    def entry(farther, low, high):
        return {"farther": farther, "farther_low": low, "farther_high": high}

    found = {
        "next_word_disparity": _entry(ratio=0.4, ratio_low=0.3, ratio_high=0.5) | entry(9.0, 8.0, 10.0),  # no such one
        "crows_pairs_religion": entry(4.2, 0.31, 8.0),
        "crows_pairs_age": entry(4.2, -0.1, 8.0),
        "stereoset_race_ss": entry(-3.0, -4.0, -1.0),
        "agreement_kept": entry(0.05, 0.02, 0.08),
        "minimal_pairs": _entry() | {"farther": None, "farther_low": None, "farther_high": None},
    }
    scores = _scores(["teacher", "baseline", "student"], {"student - teacher": {}, "student - baseline": found})
    before = "60% [50%, 70%] less disparity after prompts than plain distillation."
    assert headline(scores) == before  # an older file does not say which these are
    scores["cards"] |= card_dicts(found)
    assert headline(scores) == (
        f"{before} Worse than with plain distillation: CrowS-Pairs, religion by 4.200 [0.310, 8.000], "
        "agreement kept by 0.050 [0.020, 0.080] (2 of 4 scores beside what is mitigated; chance alone puts 1 in 40 "
        "here)."
    )
    del found["crows_pairs_religion"], found["agreement_kept"]
    assert headline(scores) == before


def test_what_is_worse_by_little_is_not_called_worse_by_nothing():
    def said(value, low, high):
        return worse_sentence({"agreement": {"value": value, "low": low, "high": high}}, "plain")

    (little,) = said(0.00042, 0.0001, 0.0012)
    assert "agreement by 0.00042 [0.0001, 0.001] (1 of 1" in little
    (more,) = said(0.01234, 0.0012, 0.02345)
    assert "agreement by 0.012 [0.001, 0.023] (1 of 1" in more
    assert said(0.0004, 0.0, 0.001) == said(0.353, 1.4e-14, 0.945) == []
    (older,) = said(0.02, 0.025, 0.06)
    assert "agreement by 0.020 [0.020, 0.060]" in older


def test_the_headline_of_fewer_models():
    found = {"next_word_disparity": _entry(ratio=2.0), "perplexity": _entry(ratio=0.9)}
    scores = _scores(["teacher", "student"], {"student - teacher": found})
    assert headline(scores) == "100% more disparity after prompts than the teacher, for 10.0% less perplexity."
    assert headline(_scores(["gpt2"], {})) == "Next-word disparity 1.114, perplexity 137.7."
    assert headline({"models": {}, "differences": {}, "cards": {}}) == "Nothing was measured."
    alone = _scores(["gpt2"], {})
    for entry in alone["models"]["gpt2"].values():
        entry |= {"value": None, "details": {"instead": "too little to tell: only 4 texts, and 20 are needed"}}
    assert headline(alone) == "Too little to tell."


def test_a_headline_of_scores_that_head_no_report_names_the_first_of_them():
    """As `distill score --metrics bbq` measures: it said that nothing was measured."""
    names = ["bbq_gender_ambiguous_bias", "bbq_gender_ambiguous_accuracy", "bbq_age_ambiguous_bias", "minimal_pairs"]
    models = {model: {name: _entry(value=n + 1.0) for n, name in enumerate(names)} for model in ("gpt2", "other")}
    models["gpt2"]["bbq_gender_ambiguous_accuracy"]["value"] = None
    scores = {"models": {"gpt2": models["gpt2"]}, "differences": {}, "cards": card_dicts(names)}
    assert headline(scores) == (
        "BBQ, gender: bias, ambiguous 1.000, BBQ, age: bias, ambiguous 3.000, grammar, minimal pairs 4.000."
    )
    found = {name: _entry(value=-1.5) | {"low": -2.0, "high": 1.0} for name in (names[0], names[3])}
    scores = {"models": models, "differences": {"other - gpt2": found}, "cards": card_dicts(names)}
    said = "BBQ, gender: bias, ambiguous -1.500 [-2.000, 1.000], grammar, minimal pairs -1.500 [-2.000, 1.000]"
    assert headline(scores) == f"Differences to gpt2: {said}."
    found["next_word_disparity"] = _entry(value=None)  # asked for, and nothing could be told
    scores["cards"] |= card_dicts(["next_word_disparity"])
    assert headline(scores) == "Nothing could be compared with gpt2."
    models["other"]["next_word_disparity"] = _entry(value=None) | {
        "details": {"instead": "too little to tell: 2 texts"}
    }
    assert headline(scores | {"models": {"other": models["other"]}}) == "Too little to tell."
    del found["next_word_disparity"]
    for entry in found.values():
        entry["value"] = None
    assert headline(scores) == "Nothing could be compared with gpt2."


def test_what_the_list_covers(scores):
    sentences = coverage(scores, COUNTS)
    words = scores["models"]["teacher"]["next_word_disparity"]["details"]["words"]
    assert sentences[0] == "The list short has 4 rows with 4 male, 4 female words."
    assert sentences[1].startswith(f"{words['movable']} of its 8 words have a token")
    assert "7 of 10 documents (70.0%) hold a word that was swapped" in sentences[2]
    # she; woman, her, man, his
    assert sentences[3] == "Held-out text: 12 of 12 documents (100.0%) hold a listed word: 12 male, 18 female."


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("openai-community/gpt2", True), ("Qwen/Qwen2.5-0.5B", True), ("gpt2", True),
        ("AmazonScience/bold:gender", True),
        ("/home/a/b", False), ("../a", False), ("a/b/c", False), ("texts/*.txt", False), ("a b", False),
    ],
)  # fmt: skip
def test_what_may_be_a_hub_id(name, known):
    assert is_hub_id(name) == known
    assert source_name(name) == (name if known else Path(name).name)


def test_roles_and_ranks_come_from_the_cards_and_not_from_the_names(scores):
    """The same file with every score renamed makes the same report, but for the names where they are shown as such."""
    names = {name: f"x{number}" for number, name in enumerate(scores["cards"])}
    renamed = scores | {
        "models": {model: {names[n]: e for n, e in of.items()} for model, of in scores["models"].items()},
        "differences": {pair: {names[n]: e for n, e in of.items()} for pair, of in scores["differences"].items()},
        "cards": {names[name]: card for name, card in scores["cards"].items()},
    }
    assert headline(renamed) == headline(scores)
    assert coverage(renamed, COUNTS) == coverage(scores, COUNTS)
    assert report_markdown(RECIPE, renamed, COUNTS) == report_markdown(RECIPE, scores, COUNTS)
    assert run_page(RECIPE, renamed, COUNTS) == run_page(RECIPE, scores, COUNTS)


def test_the_headline_is_the_first_measured_by_rank(scores):
    order = ["next_word_disparity", "corpus_disparity", "generation_disparity"]
    assert headliners(scores) == order
    assert with_role(scores, "disparity") == order[:2]
    assert with_role(scores, "cost") == ["perplexity"]
    assert showing(scores, "subjects") == order[:1]
    assert showing(scores, "texts") == order[2:]


def test_a_score_without_a_card_is_called_by_its_name():
    assert label({"cards": {}}, "of_old_times") == "of old times"


def test_of_several_files_the_first_explains_a_score():
    files = [{"cards": {"a": {"label": "one"}}}, {"cards": {"a": {"label": "other"}, "b": {"label": "b"}}}]
    assert {name: card["label"] for name, card in all_cards(files).items()} == {"a": "one", "b": "b"}


def test_what_was_not_asked_for_is_what_the_file_says(scores):
    said = not_measured(scores | {"not_asked": ["of_old"]})
    assert [line for line in said if "of_old" in line] == [
        "Not asked for: of_old. A recipe's scores.metrics and the option --metrics of distill score list what is "
        "measured; most of these need data of your own."
    ]
    assert not [line for line in not_measured(scores | {"not_asked": []}) if line.startswith("Not asked for")]


EMBEDDINGS = "less disparity in generated text need not mean less of it there."


@pytest.mark.parametrize(
    ("found", "said", "unsaid"),
    [
        (
            {},
            ["Fairness of embeddings and of classifiers built on the model:", "Sentiment, regard and toxicity of"],
            [],
        ),
        ({"seat6_effect_size": 0.4}, [f"Fairness of classifiers built on the model: {EMBEDDINGS}"], ["embeddings"]),
        ({"occupation_tpr_gap": 0.1}, [f"Fairness of embeddings: {EMBEDDINGS}"], ["classifiers"]),
        ({"weat6_effect_size": 0.4, "hatexplain_flip_rate": 0.0}, [], ["Fairness of"]),
        ({"weat6_effect_size": None}, ["Fairness of embeddings and of classifiers"], []),
        ({"regard_gap": 0.1}, ["Sentiment and toxicity of what is said about each group."], ["Regard", "regard and"]),
        ({"regard_gap": 0.1, "sentiment_gap": 0.0}, ["Toxicity of what is said about each group."], ["Sentiment"]),
        ({"regard_gap": 0.1, "sentiment_gap": 0.0, "toxicity_gap": 0.2}, [], ["is said about each group"]),
        ({"toxicity_rate": 0.2}, ["Sentiment, regard and toxicity of what is said"], []),  # of all texts together
    ],
)
def test_what_has_a_value_is_not_called_unmeasured(found, said, unsaid, scores):
    scores = copy.deepcopy(scores) | {"not_asked": []}
    entry = {"ideal": 0.0, "details": {"reason": "none"}}
    scores["models"]["student"] |= {metric: entry | {"value": value} for metric, value in found.items()}
    lines = not_measured(scores)
    for beginning in said:
        assert any(line.startswith(beginning) for line in lines)
    for part in unsaid:
        assert not any(part in line for line in lines)
    assert "Contexts longer than the prompts and held-out texts; dialogue, instructions." in lines


def test_prompts_in_a_chat_template_are_instructions(scores):
    asked = scores | {"settings": scores["settings"] | {"prompts": scores["settings"]["prompts"] | {"chat": True}}}
    assert "Contexts longer than the prompts and held-out texts; dialogue." in not_measured(asked)


def test_no_signed_zero_and_an_interval_that_holds_its_value():
    assert [number(value) for value in (-0.0001, -0.0, 0.0, -0.0006, -12.001)] == [
        "0.000", "0.000", "0.000", "-0.001", "-12.00",
    ]  # fmt: skip
    assert cell({"value": 0.873, "low": 0.778, "high": 0.864}) == "0.873 [0.778, 0.873]"  # of an older file


def test_what_stands_in_the_place_of_a_number():
    reason = "too little to tell: listed words hold 0.2% of the probability, and 0.5% are needed"
    assert cell({"value": None, "details": {"reason": reason, "instead": reason}}) == reason
    assert cell({"value": None, "details": {"reason": "no benchmark data"}}) == "not measured"
    assert cell({"value": None, "instead": "no difference: why"}) == "no difference: why"
    assert (cell(None), cell({"value": None})) == ("–", "–")


def test_no_headline_is_made_of_what_saw_nothing(scores):
    scores = copy.deepcopy(scores)
    for of_pair in scores["differences"].values():
        for metric in headliners(scores):
            of_pair[metric] |= dict.fromkeys(("value", "ratio", "ratio_low", "ratio_high")) | {"instead": "too little"}
    assert headline(scores).startswith("No disparity could be compared; ")


def _asked_about_members(**details):
    """Scores of one model, with 100 members and 100 others."""
    known = {"members": 100, "others": 100, "control": "none: chance, 0.5, stands for it", "reference": "yes"}
    scores = _scores(["gpt2"], {})
    entry = {"value": 0.5, "low": 0.4, "high": 0.5, "ideal": 0.0, "direction": "", "undetected": None}
    scores["models"]["gpt2"] = {"membership_excess_auc": entry | {"details": known | details}}
    scores["cards"] = card_dicts(("membership_excess_auc",))
    return scores


@pytest.mark.parametrize(
    ("details", "said"),
    [
        ({"reference_alone_auc": 0.5}, ""),
        # The standard error of 100 beside 100 is sqrt(201 / 120,000) = 0.0409: three of them are 0.123.
        ({"reference_alone_auc": 0.62}, ""),
        ({"reference_alone_auc": 0.63}, "two kinds of text: the reference alone tells them apart (AUC 0.63)"),
        ({"reference_alone_auc": 0.37}, "two kinds of text: the reference alone tells them apart (AUC 0.37)"),
        ({"reference_alone_auc": 0.0}, "two kinds of text: the reference alone tells them apart (AUC 0.00)"),
        ({"reference_alone_auc": 0.9, "control": "yes"}, ""),
        ({"reference_alone_auc": 0.5, "reference": "none"}, "without a reference or a control"),
    ],
)
def test_membership_without_a_control_is_headed_by_what_else_it_may_be(details, said):
    heading = memory_heading(_asked_about_members(**details))
    assert heading == "what it remembers" if not said else said in heading
    assert next(score_rows(_asked_about_members(**details)))[0] == heading


def test_the_reference_that_tells_most_is_looked_for_in_all_models():
    """The teacher is its own, and has 0.5; the student's is wrong of every pair; of the last nothing is told."""
    scores = _asked_about_members(reference_alone_auc=0.5)
    for name, alone in (("student", 0.0), ("other", None)):
        scores["models"][name] = copy.deepcopy(scores["models"]["gpt2"])
        scores["models"][name]["membership_excess_auc"]["details"]["reference_alone_auc"] = alone
    assert "two kinds of text: the reference alone tells them apart (AUC 0.00)" in memory_heading(scores)
    assert memory_heading(_asked_about_members(reference_alone_auc=None)) == "what it remembers"


def test_one_model_that_was_asked_what_it_remembers_alone_is_headed_by_that():
    assert headline(_asked_about_members(reference_alone_auc=0.5)) == "Membership, excess AUC 0.500 [0.400, 0.500]."
