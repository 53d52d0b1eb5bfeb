"""How one group is set against another: the log ratio, and what stands for it with more than two groups."""

from itertools import combinations

import numpy as np


def log_ratio(logs: np.ndarray) -> np.ndarray:
    """The log ratio of groups, from the logs of their masses or counts.

    Args:
        logs: (..., K).

    Returns:
        (...) With two groups log(group 0 / group 1), signed. With more, the mean of |log(a / b)| over all pairs of
        groups: a size without a sign.
    """
    if logs.shape[-1] == 2:
        return logs[..., 0] - logs[..., 1]
    pairs = [np.abs(logs[..., a] - logs[..., b]) for a, b in combinations(range(logs.shape[-1]), 2)]
    return np.mean(pairs, axis=0)
