"""Which clients a round asks, and how likely each was to be among them."""

from collections.abc import Sequence

import numpy as np

from distill.recipe import FederationConfig


def select_clients(documents: Sequence[int], config: FederationConfig, seed: int, number: int) -> dict[int, float]:
    """Clients that a round asks, in ascending order -> their chance to be asked.

    - `uniform`: all clients with text alike.
    - `activity`: in proportion to their documents (Dupuy et al. 2022). Drawn systematically (Madow 1949), so that the
      chance is exactly so; whoever would have to be drawn more than once is certain.

    Args:
        documents: Of each client, in this round's period; a client without any is not asked.
        config: How many are asked, and how they are drawn.
        seed: Decides, with the round's number, who is drawn: a round that is done again asks the same ones.
        number: Of the round, counted from 0.
    """
    rng = np.random.default_rng([seed, 2, number])
    active = np.flatnonzero(np.asarray(documents) > 0)
    asked = config.asked_of(len(active))
    if config.select == "uniform":
        drawn = rng.choice(active, asked, replace=False) if asked else active
        return dict.fromkeys(sorted(map(int, drawn)), asked / max(1, len(active)))
    chances = inclusion_chances(np.asarray(documents)[active], asked)
    order = rng.permutation(len(active))
    edges = np.floor(np.concatenate([[0.0], np.cumsum(chances[order])]) + rng.random() + 1e-9)
    drawn = order[np.diff(edges) > 0]
    return {int(active[i]): float(chances[i]) for i in sorted(drawn)}


def are_enough(there: int, wanted: int, config: FederationConfig) -> bool:
    """Whether so many clients are the `min_fraction` of those that were wanted; 55 of 100 are 0.55 of them, whatever
    floating point makes of the product."""
    return there >= config.min_fraction * wanted - 1e-9


def inclusion_chances(sizes: np.ndarray, asked: int) -> np.ndarray:
    """(N,) chances in proportion to sizes that add up to `asked`, none above 1.

    Args:
        sizes: (N,) all above 0.
        asked: At most N.
    """
    chances = np.ones(len(sizes))
    certain = np.zeros(len(sizes), dtype=bool)
    while not certain.all():
        rest = asked - certain.sum()
        chances[~certain] = rest * sizes[~certain] / sizes[~certain].sum()
        above = ~certain & (chances >= 1)
        if not above.any():
            break
        chances[above], certain = 1.0, certain | above
    return chances
