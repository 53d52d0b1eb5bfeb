"""The logistic head against scipy, and its laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy_head import scipy_probabilities

from distill.metrics.classifier import fit_head


@pytest.mark.parametrize(("num_classes", "size"), [(2, 60), (4, 120)])
def test_the_head_against_scipy(num_classes, size):
    rng = np.random.default_rng(num_classes)
    features = rng.normal(3, [0.1, 1, 20], size=(size, 3))
    labels = (features[:, 1] + rng.normal(size=size) > 3).astype(int) + 2 * (rng.random(size) < 0.5) * (num_classes > 2)
    queries = rng.normal(3, [0.1, 1, 20], size=(20, 3))
    head = fit_head(features, labels, num_classes)
    expected = scipy_probabilities(features, labels, num_classes, queries)
    np.testing.assert_allclose(head.probabilities(queries), expected, atol=1e-5)
    np.testing.assert_array_equal(head.predictions(queries), expected.argmax(axis=1))


@given(st.integers(0, 1000))
def test_laws_of_the_head(seed):
    """Order, repetition, shift and scale of the features change nothing; a constant feature has no weight."""
    rng = np.random.default_rng(seed)
    features, labels = rng.normal(size=(12, 3)), rng.integers(2, size=12)
    features[:, 2] = 7.0
    head = fit_head(features, labels, 2)
    assert np.all(head.weight[:, 2] == 0)
    expected = head.probabilities(features)
    np.testing.assert_allclose(expected.sum(axis=1), 1)
    order = rng.permutation(12)
    scaled = features * [3, 0.01, 5] + [1, -2, 4]
    for other, of, queries in (
        (features[order], labels[order], features),
        (np.concatenate([features] * 3), np.concatenate([labels] * 3), features),
        (scaled, labels, scaled),
    ):
        np.testing.assert_allclose(fit_head(other, of, 2).probabilities(queries), expected, atol=1e-5)


def test_a_head_without_texts_is_an_error():
    with pytest.raises(ValueError, match="no texts"):
        fit_head(np.zeros((0, 3)), np.zeros(0, int), 2)
