"""WikiText-2: articles as documents, and the scores beside those of the same documents as held-out text."""

import math
import re

import evaluate
import pytest
from bigram import BigramModel
from bundled import GENDER
from hypothesis import given
from hypothesis import strategies as st
from shared import REPOSITORY

from distill.base.errors import UserError
from distill.metrics import CARDS, METRICS, Evaluation, NotMeasured, measured, score
from distill.recipe import ScoreConfig

wikitext2 = METRICS["wikitext2"]
ARTICLES = [
    " = The king = \n The king said that he was tired . \n = = Coat = = \n He took his coat @-@ and her coat . \n",
    " = 1933 book ( é ) = \n x = 1 ; = = b \n The book was late . \n = = = Late = = = \n",
    " = A = \n",
]


@pytest.fixture
def benchmark(tmp_path, toy_tokenizer):
    """A function from a model (and the file's text) to an evaluation with that file as its data."""

    def make(model, text: str = "".join(ARTICLES), **fields):
        (tmp_path / "wikitext2").mkdir(exist_ok=True)
        (tmp_path / "wikitext2" / "wiki.test.raw").write_text(text, encoding="utf-8", newline="")
        settings = ScoreConfig(batch_size=3, bootstrap=200, stride=5, data=str(tmp_path))
        return Evaluation(model, toy_tokenizer, GENDER.wordlist, settings=settings, swapper=GENDER, **fields)

    return make


def scored(evaluation: Evaluation) -> dict:
    return {
        name: score(CARDS[name], m, resamples=evaluation.settings.bootstrap, seed=0)
        for name, m in measured(wikitext2, evaluation).items()
    }


def test_scores_are_those_of_the_articles_as_held_out_text(toy_model, toy_tokenizer, benchmark):
    """`perplexity` and `bits_per_byte` are checked token by token elsewhere."""
    model = toy_model(n_positions=16)
    evaluation = benchmark(model, documents=["Other text."])
    outcome = scored(evaluation)
    held_out = Evaluation(
        model, toy_tokenizer, evaluation.wordlist, ARTICLES, settings=evaluation.settings, swapper=evaluation.swapper
    )
    for name in ("perplexity", "bits_per_byte"):
        expected = score(METRICS[name].CARD, METRICS[name].measure(held_out), resamples=200, seed=0)
        found = outcome[f"wikitext2_{name}"]
        assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
        assert (found.n, found.details["units"], found.details["stride"]) == (expected.n, 3, 5)
    assert outcome["wikitext2_bits_per_byte"].n == sum(len(article.encode()) for article in ARTICLES)
    assert evaluation.documents == ["Other text."]
    assert "likelihoods" not in vars(evaluation)  # Nor is its own pass mixed up with this one.


def test_a_uniform_model(toy_tokenizer, benchmark):
    outcome = scored(benchmark(BigramModel(len(toy_tokenizer))))
    perplexity, bits = outcome["wikitext2_perplexity"], outcome["wikitext2_bits_per_byte"]
    assert perplexity.value == pytest.approx(len(toy_tokenizer), rel=1e-5)
    assert bits.value == pytest.approx(perplexity.n * math.log2(len(toy_tokenizer)) / bits.n, rel=1e-5)
    words = sum(len(article.split()) for article in ARTICLES)
    assert perplexity.details["word_perplexity"] == pytest.approx(
        math.exp(perplexity.n * math.log(len(toy_tokenizer)) / words), rel=1e-4
    )


def test_windows_line_ends_change_nothing(toy_model, benchmark):
    one = scored(benchmark(toy_model()))
    two = scored(benchmark(toy_model(), "".join(ARTICLES).replace("\n", "\r\n")))
    assert one == two


def test_progress_has_a_name_of_its_own(toy_model, benchmark):
    calls = []
    scored(benchmark(toy_model(), progress=lambda *call: calls.append(call)))
    assert {what for what, _, _ in calls} == {"WikiText-2"}
    assert calls[-1][1] == calls[-1][2]


def test_through_evaluate(toy_model, toy_tokenizer, benchmark, tmp_path):
    evaluation = benchmark(toy_model())
    module = evaluate.load(str(REPOSITORY / "distill/metrics/wikitext2"), cache_dir=str(tmp_path / "cache"))
    outcome = module.compute(
        model=toy_model(), tokenizer=toy_tokenizer, bootstrap=200, stride=5, batch_size=3, data=str(tmp_path)
    )
    assert {name: entry["value"] for name, entry in outcome.items()} == {
        name: entry.value for name, entry in scored(evaluation).items()
    }


# -------------------------------------------------------------------------------------------------------------- file


def test_articles_are_told_apart(tmp_path):
    path = tmp_path / "wiki.test.raw"
    path.write_text(" \n" + "".join(ARTICLES), encoding="utf-8")
    assert wikitext2.read_articles(path) == ARTICLES


lines = st.lists(
    st.sampled_from([" = A b = ", " = = c = = ", " d = e ", "", " ", " = f ", "g = "]) | st.text(max_size=8), max_size=8
)


@given(lines)
def test_no_text_is_lost_behind_the_first_title(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("wiki") / "wiki.test.raw"
    text = re.sub("[\r\n]", "", "\x00".join(lines)).replace("\x00", "\n")
    path.write_text(text, encoding="utf-8", newline="")
    titles = [line for line in text.split("\n") if re.fullmatch(r" = [^=]+ = ", line)]
    try:
        articles = wikitext2.read_articles(path)
    except UserError as error:
        assert str(path) in str(error)
        assert not titles
        return
    assert len(articles) >= len(titles)
    assert text.lstrip("\ufeff").endswith("".join(articles))
    assert all(re.match(" = .* = (\n|$)", article) for article in articles)


def test_a_file_without_articles_is_refused(toy_model, benchmark):
    with pytest.raises(UserError, match=r"wiki\.test\.raw: no line ' = Title = ' begins an article"):
        wikitext2.measure(benchmark(toy_model(), " = = Only a section = = \n text"))


def test_without_data_it_says_what_is_missing(toy_model, toy_tokenizer):
    evaluation = Evaluation(toy_model(), toy_tokenizer, GENDER.wordlist, swapper=GENDER)
    with pytest.raises(NotMeasured, match="--data names the folder that holds wikitext2/"):
        wikitext2.measure(evaluation)


def test_the_real_file(shared_data):
    path = shared_data("wikitext2", "wiki.test.raw")
    articles = wikitext2.read_articles(path)
    titles = [article.split("\n")[0].strip(" =") for article in articles]
    assert titles[:2] == ["Robert Boulter", "Du Fu"]
    assert titles[-1] == "The Hustler ( film )"
    formulas = [title for title in titles if title.startswith("1 ")]
    assert (len(titles), len(formulas)) == (62, 2)
    text = path.read_text(encoding="utf-8")
    assert "".join(articles) == text
    assert len(text.encode()) == 1_287_656
