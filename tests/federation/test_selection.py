"""Who is asked: how many, how likely, and the same ones again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.federation.selection import are_enough, inclusion_chances, select_clients
from distill.recipe import FederationConfig

SIZES = st.lists(st.integers(0, 1000), min_size=1, max_size=40)


@given(SIZES, st.floats(0.01, 1.0), st.sampled_from(["uniform", "activity"]), st.integers(0, 5))
def test_as_many_as_asked_for_and_none_without_text(sizes, fraction, select, number):
    config = FederationConfig(clients=len(sizes), fraction=fraction, select=select)
    asked = select_clients(sizes, config, 7, number)
    active = sum(size > 0 for size in sizes)
    assert len(asked) == min(active, max(1, round(fraction * active)))
    assert all(sizes[client] > 0 and 0 < chance <= 1 for client, chance in asked.items())
    assert list(asked) == sorted(asked)
    assert asked == select_clients(sizes, config, 7, number)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.data())
def test_chances_add_up_and_are_in_proportion(sizes, data):
    asked = data.draw(st.integers(1, len(sizes)))
    chances = inclusion_chances(np.array(sizes), asked)
    assert chances.sum() == pytest.approx(asked)
    assert (chances <= 1 + 1e-12).all()
    uncertain = chances < 1 - 1e-9
    ratios = chances[uncertain] / np.array(sizes)[uncertain]
    assert np.allclose(ratios, ratios[:1] if len(ratios) else 0)


def test_who_has_more_is_asked_more_often():
    """Over 4,000 rounds, each client as often as its chance says; alike where they are drawn alike."""
    sizes = [100, 10, 30, 60, 0]
    for select, expected in (("activity", [1, 0.1, 0.3, 0.6, 0]), ("uniform", [0.5, 0.5, 0.5, 0.5, 0])):
        config = FederationConfig(clients=5, fraction=0.5, select=select)
        drawn = np.zeros(5)
        for number in range(4000):
            for client, chance in select_clients(sizes, config, 0, number).items():
                drawn[client] += 1
                assert chance == pytest.approx(expected[client])
        assert np.allclose(drawn / 4000, expected, atol=0.03)


def test_all_are_asked_without_a_fraction():
    config = FederationConfig(clients=3, select="activity")
    assert select_clients([1, 500, 2], config, 0, 0) == {0: 1.0, 1: 1.0, 2: 1.0}


def test_a_share_is_enough_exactly_where_whole_numbers_say_so():
    """Floating point makes 55.00000000000001 of 0.55 times 100."""
    for wanted in (1, 3, 7, 100, 1000):
        for percent in range(1, 101):
            config = FederationConfig(clients=wanted, min_fraction=percent / 100)
            least = -(-percent * wanted // 100)
            assert are_enough(least, wanted, config) and not are_enough(least - 1, wanted, config)
