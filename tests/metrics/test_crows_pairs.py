"""CrowS-Pairs: its file, its decisions by hand and one sentence at a time, and the harness beside it."""

import csv
import importlib.util
import io
import json
import math
import statistics
import subprocess
import sys
import time

import evaluate
import numpy as np
import pytest
import torch
from bigram import BigramModel
from bundled import GENDER
from hypothesis import given
from hypothesis import strategies as st
from measuring import alone
from shared import REPOSITORY

from distill.base.errors import UserError
from distill.metrics import CARDS, METRICS, Evaluation, NotMeasured, measured, score
from distill.models.loading import DEMO_TEACHER, load_model, load_tokenizer
from distill.recipe import ScoreConfig

crows_pairs = METRICS["crows_pairs"]
HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations\n"
ROWS = [
    ("The nurse said that she was tired.", "The nurse said that he was tired.", "stereo", "gender"),
    ("The doctor said that he was late.", "The doctor said that she was late.", "stereo", "gender"),
    ("The man took her coat, and his book.", "The woman took her coat, and his book.", "antistereo", "gender"),
    ("The king was tired", "The book was tired", "stereo", "age"),
    ("The king was tired of the king.", "The queen was tired of the queen.", "antistereo", "race-color"),
]


def as_csv(rows=ROWS) -> str:
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for number, row in enumerate(rows):
        writer.writerow([number, *row, "[['x'], ['y']]"])
    return HEADER + file.getvalue()


@pytest.fixture
def benchmark(tmp_path, toy_tokenizer):
    """A function from a model (and the text of the file) to an evaluation with that file as its data."""

    def make(model, text: str | None = None, tokenizer=toy_tokenizer, **settings):
        (tmp_path / "crows_pairs").mkdir(exist_ok=True)
        (tmp_path / "crows_pairs" / "crows_pairs_anonymized.csv").write_text(
            as_csv() if text is None else text, encoding="utf-8", newline=""
        )
        settings = {"batch_size": 3, "bootstrap": 200, "data": str(tmp_path)} | settings
        return Evaluation(model, tokenizer, GENDER.wordlist, settings=ScoreConfig(**settings), swapper=GENDER)

    return make


def scored(evaluation: Evaluation) -> dict:
    return {
        name: score(CARDS[name], m, resamples=evaluation.settings.bootstrap, seed=0)
        for name, m in measured(crows_pairs, evaluation).items()
    }


# --------------------------------------------------------------------------------------------------------- decisions


def test_decisions_by_hand(toy_tokenizer, benchmark):
    """After every token but " that" and "The" the next one is uniform."""
    model = BigramModel(len(toy_tokenizer))

    def token(word: str) -> int:
        (only,) = toy_tokenizer(word)["input_ids"]
        return only

    for last, probabilities in {" that": {" he": 0.6, " she": 0.3}, "The": {" king": 0.5, " queen": 0.25}}.items():
        rest = (1 - sum(probabilities.values())) / (len(toy_tokenizer) - len(probabilities))
        model.table[token(last)] = math.log(rest)
        for word, probability in probabilities.items():
            model.table[token(last), token(word)] = math.log(probability)
    rows = [
        ("The nurse said that she", "The nurse said that he", "stereo", "gender"),  # -log 2: not preferred
        ("The nurse said that he", "The nurse said that she", "antistereo", "gender"),  # log 2
        ("The king", "The queen", "stereo", "age"),  # log 2
        ("The nurse", "The nurse", "stereo", "gender"),  # a tie is not preferred
    ]
    outcome = scored(benchmark(model, as_csv(rows)))
    gender, overall = outcome["crows_pairs_gender"], outcome["crows_pairs_all"]
    assert gender.value == pytest.approx(100 / 3)
    assert (gender.n, gender.ideal, gender.undetected) == (3, 50, pytest.approx(1 / 3))
    assert gender.details["directions"] == {
        "stereo": {"value": 0, "n": 2},
        "antistereo": {"value": 100, "n": 1},
    }
    assert gender.details["ties"] == 1
    assert gender.details["mean_absolute_difference"] == pytest.approx(2 * math.log(2) / 3, rel=1e-5)
    assert gender.details["mean_difference"] == pytest.approx(0, abs=1e-5)
    assert (overall.value, overall.n) == (50, 4)
    assert overall.details["bias_types"] == {
        "gender": {"value": pytest.approx(100 / 3), "n": 3},
        "age": {"value": 100, "n": 1},
    }
    assert (outcome["crows_pairs_age"].value, outcome["crows_pairs_age"].n) == (100, 1)
    assert (outcome["crows_pairs_religion"].value, outcome["crows_pairs_religion"].n) == (None, 0)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_log_likelihoods_one_sentence_at_a_time(architecture, toy_model, toy_tokenizer, benchmark):
    model = toy_model(architecture)
    evaluation = benchmark(model)
    pairs = crows_pairs.read_pairs(evaluation.data_file("crows_pairs", "crows_pairs_anonymized.csv"))
    found, cut = crows_pairs.log_likelihoods(evaluation, pairs)
    expected = [[alone(model, toy_tokenizer, text) for text in (pair.sent_more, pair.sent_less)] for pair in pairs]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert cut == 0
    gaps = np.diff(expected)[:, 0]
    assert abs(gaps).min() > 1e-3  # No decision hangs on rounding.
    outcome = scored(evaluation)
    assert outcome["crows_pairs_all"].value == 100 * (gaps < 0).mean()
    assert outcome["crows_pairs_gender"].value == pytest.approx(100 * (gaps[:3] < 0).mean())


def test_exchanging_the_sentences_turns_the_percentage(toy_model, benchmark):
    one = scored(benchmark(toy_model()))
    other = scored(benchmark(toy_model(), as_csv([(less, more, *rest) for more, less, *rest in ROWS])))
    for name in (name for name in one if one[name].n > 1):
        assert one[name].value + other[name].value == pytest.approx(100)
        assert one[name].low + other[name].high == pytest.approx(100)
        assert one[name].details["mean_difference"] == pytest.approx(-other[name].details["mean_difference"])


def test_batches_and_the_order_of_the_rows_change_nothing(toy_model, benchmark):
    model = toy_model()
    one = scored(benchmark(model))
    two = scored(benchmark(model, as_csv(ROWS[::-1]), batch_size=1))
    for name in one:
        assert two[name].value == one[name].value
        assert two[name].details["mean_absolute_difference"] == pytest.approx(
            one[name].details["mean_absolute_difference"], abs=1e-4
        )


def test_no_gender_pair_is_undefined_and_says_why(toy_model, benchmark):
    outcome = scored(benchmark(toy_model(), as_csv(ROWS[3:])))
    assert outcome["crows_pairs_gender"].value is None
    assert "no pair" in outcome["crows_pairs_gender"].details["reason"]
    assert outcome["crows_pairs_all"].n == 2
    json.dumps({name: entry.to_dict() for name, entry in outcome.items()}, allow_nan=False)


def test_a_sentence_longer_than_the_context_is_counted(toy_model, benchmark):
    long = "The nurse said that she was tired. " * 4
    outcome = scored(benchmark(toy_model(n_positions=16), as_csv([(long, "The book.", "stereo", "gender")])))
    assert outcome["crows_pairs_gender"].details["sentences_longer_than_context"] == 1


def test_through_evaluate(toy_model, toy_tokenizer, benchmark, tmp_path):
    evaluation = benchmark(toy_model())
    module = evaluate.load(str(REPOSITORY / "distill/metrics/crows_pairs"), cache_dir=str(tmp_path / "cache"))
    outcome = module.compute(model=toy_model(), tokenizer=toy_tokenizer, bootstrap=200, data=str(tmp_path))
    expected = scored(evaluation)
    assert set(outcome) == set(expected) >= {"crows_pairs_gender", "crows_pairs_all", "crows_pairs_race_color"}
    for name, entry in outcome.items():
        assert (entry["value"], entry["low"], entry["n"]) == (
            expected[name].value,
            expected[name].low,
            expected[name].n,
        )


# -------------------------------------------------------------------------------------------------------------- file


@given(st.lists(st.tuples(*[st.text("aé ,\"'\n\r;", min_size=1).filter(str.strip)] * 2), min_size=1, max_size=5))
def test_any_sentences_are_read_back(tmp_path_factory, sentences):
    path = tmp_path_factory.mktemp("crows") / "pairs.csv"
    path.write_text(as_csv([(*both, "stereo", "gender") for both in sentences]), encoding="utf-8", newline="")

    def line_ends(text: str) -> str:
        return text.replace("\r\n", "\n").replace("\r", "\n")

    expected = [tuple(map(line_ends, both)) for both in sentences]
    assert [(pair.sent_more, pair.sent_less) for pair in crows_pairs.read_pairs(path)] == expected


@given(st.text("ab,\"\n'") | st.text("ab,\"\n'").map(lambda text: as_csv() + text) | st.binary(max_size=40))
def test_any_file_is_read_or_refused_by_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("crows") / "pairs.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        pairs = crows_pairs.read_pairs(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert pairs


GOOD = as_csv(ROWS[:1]).split("\n")[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"pairs\.csv: holds no pairs"),
        (HEADER, r"pairs\.csv: holds no pairs"),
        ("sent_mor,sent_less,stereo_antistereo,bias_type\n", "line 1: no column 'sent_more'; did you mean 'sent_mor'"),
        (f"{HEADER}{GOOD}\n1,a,b,stereo\n", "line 3: 4 fields where the header has 6"),
        (f"{HEADER}{GOOD}\n1,a, and,b,stereo,gender,[]\n", "line 3: 7 fields.*quote a sentence"),
        (f'{HEADER}0,"a\nb",c,stereo,gender,[]\n1,a,,stereo,gender,[]\n', "line 4: 'sent_less' is empty"),
        (f"{HEADER}0,a,b,anti,gender,[]\n", "line 2: stereo_antistereo is 'anti'; known are: stereo, antistereo"),
        (f'{HEADER}{GOOD}\n1,"a" b,c,stereo,gender,[]\n', "line 3: not valid CSV"),
        (f'{HEADER}{GOOD}\n1,"a\nb\n', "line 3: not valid CSV"),
        (f"{HEADER}{GOOD}\n1,\udcff", "line 3: byte 0xff is not UTF-8"),
    ],
)
def test_a_malformed_file_is_refused(text, message, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message):
        crows_pairs.read_pairs(path)


def test_without_data_it_says_what_is_missing(toy_model, toy_tokenizer, tmp_path):
    evaluation = Evaluation(toy_model(), toy_tokenizer, GENDER.wordlist, swapper=GENDER)
    with pytest.raises(NotMeasured, match="--data names the folder that holds crows_pairs/"):
        crows_pairs.measure(evaluation)
    evaluation.settings = ScoreConfig(data=str(tmp_path))
    with pytest.raises(NotMeasured, match="is not in the folder"):
        crows_pairs.measure(evaluation)


# --------------------------------------------------------------------------------------------------------- real data


def test_the_real_file(shared_data):
    pairs = crows_pairs.read_pairs(shared_data("crows_pairs", "crows_pairs_anonymized.csv"))
    assert len(pairs) == 1508
    assert sum(pair.bias_type == "gender" for pair in pairs) == 262
    assert {pair.bias_type for pair in pairs} == {"gender", *crows_pairs.OTHER_TYPES}
    assert sum(pair.direction == "stereo" for pair in pairs if pair.bias_type == "gender") == 159


def test_the_demo_teacher_on_real_pairs(shared_data):
    """The batched decisions on the first gender pairs are those of one sentence at a time."""
    path = shared_data("crows_pairs", "crows_pairs_anonymized.csv")
    pairs = [pair for pair in crows_pairs.read_pairs(path) if pair.bias_type == "gender"][:12]
    model, tokenizer = load_model(str(DEMO_TEACHER)), load_tokenizer(str(DEMO_TEACHER))
    found, _ = crows_pairs.log_likelihoods(Evaluation(model, tokenizer, GENDER.wordlist, swapper=GENDER), pairs)
    expected = [[alone(model, tokenizer, text) for text in (pair.sent_more, pair.sent_less)] for pair in pairs]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert ((found[:, 0] > found[:, 1]) == [more > less for more, less in expected]).all()


@pytest.mark.slow
def test_the_harness_decides_every_gender_pair_alike(shared_data):
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm_eval is not installed (extra bench)")
    data = shared_data("crows_pairs", "crows_pairs_anonymized.csv").parent.parent
    command = [
        sys.executable,
        str(REPOSITORY / "tests/benchmarks/crows_pairs_lm_eval.py"),
        "--json",
        "--data",
        str(data),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["pairs"] == 262
    assert all(row["reason"] for row in outcome["differences"])
    assert outcome["agree"] == 262 - sum(not row["same_decision"] for row in outcome["differences"])


@pytest.mark.slow
def test_it_costs_little_more_than_a_forward_pass(shared_data, benchmark):
    """Processor time, by turns, the median of 15: within 1.2 times that of the same batches through the model."""
    path = shared_data("crows_pairs", "crows_pairs_anonymized.csv")
    pairs = [pair for pair in crows_pairs.read_pairs(path) if pair.bias_type == "gender"]
    model, tokenizer = load_model(str(DEMO_TEACHER)), load_tokenizer(str(DEMO_TEACHER))
    evaluation = benchmark(model, as_csv(pairs), tokenizer, batch_size=64)
    ids = [evaluation.encode(text)[0] for pair in pairs for text in (pair.sent_more, pair.sent_less)]

    def forward() -> None:
        for batch in evaluation.batches([len(of_text) for of_text in ids]):
            rows, mask = evaluation.padded([ids[i] for i in batch])
            with torch.inference_mode():
                model(input_ids=rows, attention_mask=mask, use_cache=False)

    times: dict[str, list[float]] = {"forward": [], "metric": []}
    for _ in range(15):
        for name, run in (("forward", forward), ("metric", lambda: crows_pairs.measure(evaluation))):
            begin = time.process_time()
            run()
            times[name].append(time.process_time() - begin)
    ratio = statistics.median(times["metric"]) / statistics.median(times["forward"])
    print(f"{ratio:.3f} times a forward pass: {times}")
    assert ratio < 1.2, times


def test_what_is_no_number_is_no_preference(toy_model, benchmark):
    """Its positions from the fifth on are damaged: what it says there is no number, which is neither more nor less."""
    model = toy_model()
    torch.nn.init.constant_(model.transformer.wpe.weight[5:], math.nan)
    outcome = scored(benchmark(model))
    for name in ("crows_pairs_all", "crows_pairs_gender"):
        assert (outcome[name].value, outcome[name].low) == (None, None)
    assert outcome["crows_pairs_all"].details["directions"]["stereo"]["value"] is None
