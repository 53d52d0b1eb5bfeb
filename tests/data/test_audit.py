"""What an audited run trains on: every document once, less those left out, plus the canaries."""

import re
from collections import Counter

import pytest
from chat_templates import chat_tokenizer
from hypothesis import assume, given
from hypothesis import strategies as st

from distill.base.errors import UserError
from distill.data.audit import run_scores, with_audit
from distill.data.corpus import Corpus
from distill.metrics.audited import read_audited
from distill.recipe import AuditConfig, ScoreConfig
from distill.text.conversations import Messages, rendered


def corpus_of(texts):
    return Corpus("key", lambda: iter(list(texts)))


@given(
    st.lists(st.sampled_from([f"text {n}" for n in range(30)] + ["ä\nb"]), min_size=40, max_size=80),
    st.integers(0, 5), st.integers(0, 12), st.integers(0, 3),
)  # fmt: skip
def test_documents_and_canaries_are_conserved(tmp_path_factory, texts, members, canaries, seed):
    """Trained on = all - every copy of the others + each canary as often as it says; members are all still there."""
    assume(2 * members < len(set(texts)))
    audit = AuditConfig(canaries=canaries, repeats=[1, 4], members=members)
    folder = tmp_path_factory.mktemp("run")
    trained_on = Counter(with_audit(corpus_of(texts), audit, seed, folder).documents())
    scores = run_scores(ScoreConfig(), audit, folder)
    audited = read_audited(scores)
    assert len(audited.members) == len(audited.others) == members
    assert len(set(audited.texts)) == 2 * members
    assert not set(audited.others) & trained_on.keys()
    assert set(audited.members) <= trained_on.keys()
    expected = Counter(text for text in texts if text not in set(audited.others))
    expected.update({canary.text: canary.repeats for canary in audited.canaries if canary.repeats})
    assert trained_on == expected
    written = {path.name: path.read_bytes() for path in folder.glob("audit/*")}
    assert Counter(with_audit(corpus_of(texts), audit, seed, folder).documents()) == trained_on  # as a run that goes on
    assert {path.name: path.read_bytes() for path in folder.glob("audit/*")} == written


def test_nothing_asked_for_gives_the_corpus_back(tmp_path):
    corpus = corpus_of(["a"])
    assert with_audit(corpus, AuditConfig(), 0, tmp_path) is corpus
    assert not list(tmp_path.iterdir())
    assert run_scores(ScoreConfig(), AuditConfig(), tmp_path) == ScoreConfig()


def test_the_key_knows_what_is_drawn(tmp_path):
    texts = [f"text {n}" for n in range(20)]
    audits = [(AuditConfig(members=2), 0), (AuditConfig(members=2), 1), (AuditConfig(members=3), 0),
              (AuditConfig(canaries=4), 0)]  # fmt: skip
    keys = {with_audit(corpus_of(texts), audit, seed, tmp_path).key for audit, seed in audits}
    assert len(keys) == 4 and "key" not in keys


def test_the_order_of_the_rest_stays(tmp_path):
    texts = [f"text {n}" for n in range(50)]
    audited = with_audit(corpus_of(texts), AuditConfig(members=5), 0, tmp_path)
    kept = list(audited.documents())
    assert kept == [text for text in texts if text in kept] == list(audited.documents())
    assert len(kept) == 45


def test_members_are_drawn_from_all_of_the_text(tmp_path):
    """Each document is a member about as often as another: 40 draws of 5 of 20, a binomial's four sigma."""
    seen = Counter()
    for seed in range(40):
        audit = AuditConfig(members=5)
        with_audit(corpus_of([f"text {n}" for n in range(20)]), audit, seed, tmp_path)
        seen.update(read_audited(run_scores(ScoreConfig(), audit, tmp_path)).members)
    assert len(seen) == 20
    assert all(abs(count - 10) < 4 * (40 * 0.25 * 0.75) ** 0.5 for count in seen.values())


@pytest.mark.parametrize("different", [2, 5, 6, 11])
def test_too_little_text_is_told_and_how_little_would_do(tmp_path, different):
    texts = [*(f"text {n}" for n in range(different)), "text 0"]
    with pytest.raises(UserError, match=rf"audit.members is {different}.* {different} different documents") as error:
        with_audit(corpus_of(texts), AuditConfig(members=different), 0, tmp_path)
    below = int(re.search(r"lower it below (\d+), ", str(error.value))[1])
    with pytest.raises(UserError, match=f"lower it below {below}, "):
        with_audit(corpus_of(texts), AuditConfig(members=below), 0, tmp_path)
    with_audit(corpus_of(texts), AuditConfig(members=below - 1), 0, tmp_path)


def test_conversations_are_refused(tmp_path, toy_tokenizer):
    talk = Messages(["user", "assistant"], ["Hello.", "He."])
    for document in (talk, rendered(talk, chat_tokenizer(toy_tokenizer, "chatml"))):
        with pytest.raises(UserError, match="conversations"):
            with_audit(corpus_of([document]), AuditConfig(canaries=4), 0, tmp_path)


def test_what_is_scored_elsewhere_is_drawn_alike_and_read_by_no_score(tmp_path):
    texts = [f"Text no. {n}." for n in range(40)]
    keys = []
    for scored in (True, False):
        audit = AuditConfig(canaries=4, members=5, scored=scored)
        keys.append(with_audit(Corpus("k", lambda: texts), audit, 0, tmp_path).key)
        assert (run_scores(ScoreConfig(), audit, tmp_path) == ScoreConfig()) is not scored
    assert keys[0] == keys[1]
