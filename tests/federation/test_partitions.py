"""Documents dealt to clients: all of them, none twice, as uneven as is asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.base.errors import UserError
from distill.federation.partitions import clusters, group_of, partition, periods
from distill.metrics.polarity import NEUTRAL, TIE
from distill.recipe import PartitionConfig
from distill.text.counterfactual import Swapper
from distill.text.documents import Labelled
from distill.text.wordlist import load_wordlist

SWAPPER = Swapper(load_wordlist("english_gender"))
SENTENCES = ["She was late.", "He was late.", "Nobody was late.", "He saw her.", "The rain fell on the plain."]


def shared_out(number=400, clients=5, seed=0, **keys):
    documents = [Labelled(SENTENCES[i % 5], f"author {i % 7}") for i in range(number)]
    return documents, partition(documents, PartitionConfig(**keys), clients, seed, SWAPPER)


@given(
    st.integers(1, 60),
    st.integers(1, 20),
    st.integers(0, 9),
    st.floats(5e-324, 1e6) | st.floats(0.001, 10),
    st.sampled_from([("quantity", "group"), ("label", "group"), ("label", "corpus"), ("cluster", "group")]),
    st.integers(1, 4),
)
def test_all_documents_and_none_twice(number, clients, seed, alpha, by, parts):
    _, shares = shared_out(number, clients, seed, by=by[0], label=by[1], alpha=alpha, clusters=3)
    assert len(shares) == clients
    assert sorted(np.concatenate(shares).tolist()) == list(range(number))
    for share in shares:
        assert (np.diff(share) > 0).all()
        cut = periods(share, parts)
        assert len(cut) == parts
        assert np.concatenate(cut).tolist() == share.tolist()
        assert max(map(len, cut)) - min(map(len, cut)) <= 1


def test_the_seed_decides():
    same, again, other = (shared_out(seed=seed, by="label")[1] for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(same, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(same, other, strict=True))


def test_alpha_says_how_even_quantities_are():
    even, uneven = (sorted(map(len, shared_out(alpha=alpha)[1])) for alpha in (1e6, 0.05))
    assert even[0] >= 79
    assert even[-1] <= 81
    assert uneven[-1] > 200


@pytest.mark.parametrize("alpha", [5e-324, 1e-320, 1e-300, 1e-30])
def test_the_least_alpha_gives_all_to_one_client_and_each_client_alike(alpha):
    """With 300 draws, a client's are binomial: 150 of two clients, give or take 5 standard deviations of 8.7."""
    sizes = np.array([list(map(len, shared_out(10, 2, seed, alpha=alpha)[1])) for seed in range(300)])
    assert (sizes.max(axis=1) == 10).all()
    assert abs((sizes[:, 0] == 10).sum() - 150) <= 43


@pytest.mark.parametrize(("by", "label"), [("label", "group"), ("label", "corpus"), ("cluster", "group")])
def test_alpha_says_how_far_labels_are_spread(by, label):
    """Near 0, a label lies with one client; with much, each client has of each what it has of all."""

    def most_of_a_label(alpha):
        documents, shares = shared_out(by=by, label=label, alpha=alpha, clusters=5)
        of = [d.label if label == "corpus" else str(d) for d in documents]
        kinds = [sorted(set(of)).index(kind) for kind in of]
        table = np.array([np.bincount([kinds[i] for i in share], minlength=max(kinds) + 1) for share in shares])
        return (table.max(axis=0) / table.sum(axis=0)).mean()

    assert most_of_a_label(1e-4) > 0.95
    assert most_of_a_label(1e6) < 0.25


def test_the_group_of_a_document():
    male = SWAPPER.wordlist.group_of["he"]
    found = [group_of(sentence, SWAPPER) for sentence in SENTENCES]
    assert found == [1 - male, male, NEUTRAL, TIE, NEUTRAL]


def test_clusters_are_documents_of_like_words():
    documents = [
        "cats and dogs purr",
        "dogs and cats bark",
        "stocks fell and bonds rose",
        "bonds fell as stocks rose",
    ] * 9
    found = clusters(documents, 2, np.random.default_rng(0)).reshape(9, 4)
    assert (found[:, 0] == found[0, 0]).all()
    assert (found[:, :2] == found[0, 0]).all()
    assert (found[:, 2:] == 1 - found[0, 0]).all()


def test_clusters_of_equal_documents_are_one():
    assert set(clusters(["the same"] * 6, 3, np.random.default_rng(0)).tolist()) == {0}
    assert len(clusters(["...", "12", "a"], 2, np.random.default_rng(0))) == 3


def test_labels_are_asked_for_where_there_are_none():
    with pytest.raises(UserError, match=r"corpus\.label"):
        partition(SENTENCES, PartitionConfig(by="label", label="corpus"), 2, 0, SWAPPER)
