"""The log ratio of two groups and of more against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from distill.metrics.log_ratio import log_ratio


@given(st_np.arrays(float, st_np.array_shapes(min_dims=1, max_dims=3, min_side=2), elements=st.floats(-50, 50)))
def test_log_ratio_against_its_definition(logs):
    outcome = log_ratio(logs)
    for index in np.ndindex(logs.shape[:-1]):
        row = logs[index]
        if len(row) == 2:
            assert outcome[index] == row[0] - row[1]
        else:
            pairs = [abs(row[a] - row[b]) for a in range(len(row)) for b in range(a)]
            assert outcome[index] == pytest.approx(sum(pairs) / len(pairs))
