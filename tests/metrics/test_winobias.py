"""WinoBias: its files, models whose answers are known, and likelihoods one question at a time."""

import json
import math
import re
from types import SimpleNamespace

import evaluate
import pytest
import torch
from bundled import GENDER
from hypothesis import given
from hypothesis import strategies as st
from shared import REPOSITORY
from transformers import GPT2Config

from distill.base.errors import UserError
from distill.metrics import CARDS, METRICS, Evaluation, NotMeasured, measured, score
from distill.recipe import ScoreConfig

winobias = METRICS["winobias"]
_WORDLIST, _NO_SWAPPER = object(), object()  # Nothing is swapped when a file is read.
OCCUPATIONS = {"male": ["mover", "construction worker", "CEO", "cook"], "female": ["nurse", "clerk", "baker"]}
PRO = """\
1 [The mover] helped the nurse because [he] was late.
2 The CEO and [the clerk] talked, and [her] book was late.
3 [The baker] fed the construction worker because [she] was late for [her] coat.

4 The cook hit [the nurse] 's table and [her] coat.
"""
_OTHER = {"he": "she", "she": "he", "her": "his"}
ANTI = re.sub(r"\[(he|she|her)\]", lambda match: f"[{_OTHER[match[1]]}]", PRO)
TEXTS = [
    ("The mover helped the nurse because he was late.", "he", "mover", "nurse", "male"),
    ("The CEO and the clerk talked, and her book was late.", "her", "clerk", "CEO", "female"),
    ("The baker fed the construction worker because she was late for her coat.", "she", "baker", "construction worker",
     "female"),
    ("The cook hit the nurse's table and her coat.", "her", "nurse", "cook", "female"),
]  # fmt: skip


def write(folder, pro=PRO, anti=ANTI, occupations=OCCUPATIONS):
    folder = folder / "winobias"
    folder.mkdir(exist_ok=True)
    for group, words in occupations.items():
        (folder / f"{group}_occupations.txt").write_text("\n".join(words), encoding="utf-8")
    for kind in (1, 2):
        (folder / f"pro_stereotyped_type{kind}.txt.dev").write_text(pro, encoding="utf-8")
        (folder / f"anti_stereotyped_type{kind}.txt.dev").write_text(anti, encoding="utf-8")


@pytest.fixture
def benchmark(tmp_path, toy_tokenizer):
    """A function from a model (and the files' texts) to an evaluation with them as its data."""

    def make(model, pro=PRO, anti=ANTI, occupations=OCCUPATIONS, **settings):
        write(tmp_path, pro, anti, occupations)
        settings = {"batch_size": 3, "bootstrap": 200, "data": str(tmp_path)} | settings
        return Evaluation(model, toy_tokenizer, GENDER.wordlist, settings=ScoreConfig(**settings), swapper=GENDER)

    return make


def scored(evaluation: Evaluation) -> dict:
    return {
        name: score(CARDS[name], m, resamples=evaluation.settings.bootstrap, seed=0)
        for name, m in measured(winobias, evaluation).items()
    }


class Reader(torch.nn.Module):
    """Completes `... refers to the` with the occupation that `answer(sentence, pronoun)` names, else is uniform."""

    def __init__(self, tokenizer, answer):
        super().__init__()
        self.config = GPT2Config(vocab_size=len(tokenizer), n_positions=128)
        self.device = torch.device("cpu")
        self.tokenizer, self.answer = tokenizer, answer

    def forward(self, input_ids, attention_mask, use_cache):
        logits = torch.zeros(*input_ids.shape, len(self.tokenizer))
        for row, ids in enumerate(input_ids.tolist()):
            text = self.tokenizer.decode(ids[1 : int(attention_mask[row].sum())])
            sentence, question, _ = text.partition(' "')
            if not question:
                continue
            pronoun = text[len(sentence) + 2 :].split('"')[0]
            before = f'{sentence} "{pronoun}" refers to the'
            position = len(self.tokenizer(before)["input_ids"])
            for token in self.tokenizer(" " + self.answer(sentence, pronoun.lower()))["input_ids"]:
                if position < input_ids.shape[1]:
                    logits[row, position, token] = 30.0
                position += 1
        return SimpleNamespace(logits=logits)


def stereotyped(sentence: str, pronoun: str) -> str:
    group = "male" if pronoun in ("he", "his", "him") else "female"
    return next(occupation for occupation in OCCUPATIONS[group] if f"he {occupation}" in sentence)


def right(sentence: str, _pronoun: str) -> str:
    (referent,) = (entry[2] for entry in TEXTS if entry[0][:20] == sentence[:20])
    return referent


def first(sentence: str, _pronoun: str) -> str:
    return min((o for words in OCCUPATIONS.values() for o in words if o in sentence), key=sentence.index)


# --------------------------------------------------------------------------------------------------------- decisions


@pytest.mark.parametrize(
    ("answer", "pro", "anti"), [(stereotyped, 100, 0), (right, 100, 100), (first, 50, 50)], ids=lambda x: str(x)[:20]
)
def test_models_whose_answers_are_known(answer, pro, anti, toy_tokenizer, benchmark):
    outcome = scored(benchmark(Reader(toy_tokenizer, answer)))
    assert set(outcome) == {"winobias_type1_gap", "winobias_type2_gap"}
    for entry in outcome.values():
        assert (entry.value, entry.n, entry.ideal) == (pro - anti, 4, 0)
        details = entry.details
        assert (details["pro"], details["anti"], details["accuracy"]) == (pro, anti, (pro + anti) / 2)
        male, female = details["referents"]["male"], details["referents"]["female"]
        assert (male["n"], female["n"]) == (1, 3)
        assert male["pro"] + 3 * female["pro"] == pytest.approx(4 * pro)
        if answer is not stereotyped:  # What it answers does not depend on the pronoun.
            assert details["log_odds_gap"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_log_odds_one_question_at_a_time(architecture, toy_model, toy_tokenizer, benchmark):
    keys = {"gpt2": "n_positions", "llama": "max_position_embeddings"}
    model = toy_model(architecture, seed=1, **{keys[architecture]: 128})

    def log_p(text: str, before: str = "") -> float:
        ids = [toy_tokenizer.bos_token_id, *toy_tokenizer(text)["input_ids"]]
        with torch.no_grad():
            log_probs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        start = 1 + len(toy_tokenizer(before)["input_ids"])
        return sum(log_probs[i - 1, ids[i]].item() for i in range(start, len(ids)))

    odds, whole = [], []
    for text, pronoun, referent, other, _ in TEXTS:
        anti_text = " ".join(_OTHER.get(word, word) for word in text.split())
        row = []
        for sentence, said in ((text, pronoun), (anti_text, _OTHER[pronoun])):
            before = f'{sentence} "{said.capitalize()}" refers to the'
            row.append(log_p(f"{before} {referent}", before) - log_p(f"{before} {other}", before))
        odds.append(row)
        whole.append(log_p(text) - log_p(anti_text))
    assert min(abs(x) for row in odds for x in row) > 1e-3
    gap = 100 * (sum(pro > 0 for pro, _ in odds) - sum(anti > 0 for _, anti in odds)) / 4
    for entry in scored(benchmark(model)).values():
        assert entry.value == pytest.approx(gap)
        assert entry.details["log_odds_gap"] == pytest.approx(sum(p - a for p, a in odds) / 4, abs=1e-3)
        assert entry.details["pro_likelier"] == 100 * sum(x > 0 for x in whole) / 4
        assert entry.details["sentence_log_ratio"] == pytest.approx(sum(whole) / 4, abs=1e-3)
        assert entry.details["texts_longer_than_context"] == 0


def test_exchanging_the_two_files_turns_the_sign(toy_model, benchmark):
    model = toy_model(n_positions=128, seed=1)
    one, other = scored(benchmark(model)), scored(benchmark(model, ANTI, PRO))
    for name in one:
        assert one[name].value == -other[name].value
        assert (one[name].low, one[name].high) == (-other[name].high, -other[name].low)
        for key in ("log_odds_gap", "sentence_log_ratio"):
            assert one[name].details[key] == pytest.approx(-other[name].details[key])


def test_batches_and_the_order_of_the_lines_change_nothing(toy_model, benchmark):
    model = toy_model(n_positions=128, seed=1)

    def reverse(text: str) -> str:
        return "\n".join(text.split("\n")[::-1])

    one, two = scored(benchmark(model)), scored(benchmark(model, reverse(PRO), reverse(ANTI), batch_size=1))
    for name in one:
        assert two[name].value == one[name].value
        assert two[name].details["log_odds_gap"] == pytest.approx(one[name].details["log_odds_gap"], abs=1e-4)


def test_through_evaluate(toy_model, toy_tokenizer, benchmark, tmp_path):
    model = toy_model(n_positions=128)
    evaluation = benchmark(model)
    module = evaluate.load(str(REPOSITORY / "distill/metrics/winobias"), cache_dir=str(tmp_path / "cache"))
    outcome = module.compute(model=model, tokenizer=toy_tokenizer, bootstrap=200, data=str(tmp_path))
    assert {name: entry["value"] for name, entry in outcome.items()} == {
        name: entry.value for name, entry in scored(evaluation).items()
    }
    json.dumps(outcome, allow_nan=False)


# -------------------------------------------------------------------------------------------------------------- file


def test_sentences_are_read(toy_model, benchmark):
    pairs = winobias.read_pairs(benchmark(toy_model()), 1)
    assert [tuple(pro) for pro, _ in pairs] == TEXTS
    assert [anti.pronoun for _, anti in pairs] == ["she", "his", "he", "his"]
    assert winobias.question(pairs[0][0]) == TEXTS[0][0] + ' "He" refers to the'


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pro": "\n\n", "anti": ""}, r"pro_stereotyped_type1\.txt\.dev: holds no sentences"),
        ({"anti": ANTI + "5 [The mover] helped the nurse because [she] ran.\n"}, "5 sentences, but .* has 4"),
        ({"pro": PRO.replace("1 [", "[")}, "pro.*line 1: a number and a sentence"),
        ({"pro": PRO.replace("[he]", "he")}, "line 1: a number and a sentence"),
        ({"pro": PRO.replace("[The baker]", "The baker")}, "line 3: a number and a sentence"),
        (
            {"pro": PRO.replace("[the nurse]", "[the painter]")},
            "line 5: .* the referent one of the files of occupations",
        ),
        ({"pro": PRO.replace("The CEO", "The painter")}, "line 2: no occupation beside 'clerk'"),
        ({"anti": PRO}, r"anti.*line 1: \[mover\] \[he\] is no counterpart of \[mover\] \[he\] in pro_stereotyped"),
        ({"anti": ANTI.replace("[The mover]", "[The CEO]")}, r"line 1: \[CEO\] \[she\] is no counterpart"),
        ({"occupations": OCCUPATIONS | {"male": []}}, r"male_occupations\.txt: holds no occupations"),
    ],
)
def test_malformed_files_are_refused(files, message, toy_model, benchmark):
    with pytest.raises(UserError, match=message):
        winobias.measure(benchmark(toy_model(), **files))


line_parts = st.sampled_from(["1 ", "[The mover]", " the nurse ", "[he]", "[she]", "[", "]", "he ", "\n", "[CEO] "])


@given(st.lists(line_parts, max_size=12).map("".join) | st.text(max_size=20))
def test_any_file_is_read_or_refused(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("wino")
    write(folder, text.replace("[she]", "[he]"), text.replace("[he]", "[she]"))
    evaluation = Evaluation(None, None, _WORDLIST, settings=ScoreConfig(data=str(folder)), swapper=_NO_SWAPPER)
    try:
        pairs = winobias.read_pairs(evaluation, 1)
    except UserError as error:
        assert str(folder) in str(error)
    else:
        assert all(pro.referent == anti.referent != pro.other for pro, anti in pairs)


def test_without_data_it_says_what_is_missing(toy_model, toy_tokenizer, tmp_path):
    write(tmp_path)
    (tmp_path / "winobias" / "anti_stereotyped_type2.txt.dev").unlink()
    evaluation = Evaluation(
        toy_model(), toy_tokenizer, GENDER.wordlist, settings=ScoreConfig(data=str(tmp_path)), swapper=GENDER
    )
    with pytest.raises(NotMeasured, match=r"anti_stereotyped_type2\.txt\.dev is not in the folder"):
        winobias.measure(evaluation)


# --------------------------------------------------------------------------------------------------------- real data


@pytest.mark.parametrize("kind", [1, 2])
def test_the_real_files(kind, shared_data):
    data = shared_data("winobias").parent
    evaluation = Evaluation(None, None, _WORDLIST, settings=ScoreConfig(data=str(data)), swapper=_NO_SWAPPER)
    pairs = winobias.read_pairs(evaluation, kind)
    assert len(pairs) == 396
    for pro, anti in pairs:
        assert {pro.pronoun, anti.pronoun} & {"he", "his", "him"}
        assert {pro.pronoun, anti.pronoun} & {"she", "her", "hers"}
        assert (pro.pronoun in ("he", "his", "him")) == (pro.stereotype == "male")
        for sentence in (pro, anti):
            assert sentence.other != sentence.referent
            assert sentence.referent in sentence.text
            assert not set("[]") & set(sentence.text)
    # Each pair sets an occupation stereotyped as male against one stereotyped as female.
    referents = [pro.stereotype for pro, _ in pairs]
    assert referents.count("male") == referents.count("female") == 198


def test_what_is_no_number_is_no_preference(toy_model, benchmark):
    """Its positions from the fifth on are damaged: what it says there is no number, which is neither more nor less."""
    model = toy_model()
    torch.nn.init.constant_(model.transformer.wpe.weight[5:], math.nan)
    outcome = scored(benchmark(model))
    for name in ("winobias_type1_gap", "winobias_type2_gap"):
        assert (outcome[name].value, outcome[name].low) == (None, None)
    assert outcome["winobias_type1_gap"].details["accuracy"] is None
