"""How one group is set against another: the log ratio, and what stands for it with more than two groups."""

from itertools import combinations

import numpy as np


def contrast(numbers: np.ndarray) -> np.ndarray:
    """How far apart the groups' numbers are.

    Args:
        numbers: (..., K).

    Returns:
        (...) With two groups the number of group 0 - that of group 1, signed. With more, the mean |difference| over all
        pairs of groups: a size without a sign.
    """
    if numbers.shape[-1] == 2:
        return numbers[..., 0] - numbers[..., 1]
    pairs = [np.abs(numbers[..., a] - numbers[..., b]) for a, b in combinations(range(numbers.shape[-1]), 2)]
    return np.mean(pairs, axis=0)


def log_ratio(logs: np.ndarray) -> np.ndarray:
    """log(group 0 / group 1) from the logs of the groups' masses or counts, (..., K) -> (...): their `contrast`."""
    return contrast(logs)
