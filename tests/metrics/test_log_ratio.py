"""The contrast of two groups and of more against its definition; of logs, it is the log ratio."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from distill.metrics.log_ratio import contrast, log_ratio


@given(st_np.arrays(float, st_np.array_shapes(min_dims=1, max_dims=3, min_side=2), elements=st.floats(-50, 50)))
def test_contrast_against_its_definition(numbers):
    outcome = contrast(numbers)
    for index in np.ndindex(numbers.shape[:-1]):
        row = numbers[index]
        if len(row) == 2:
            assert outcome[index] == row[0] - row[1]
        else:
            pairs = [abs(row[a] - row[b]) for a in range(len(row)) for b in range(a)]
            assert outcome[index] == pytest.approx(sum(pairs) / len(pairs))


def test_log_ratio_by_hand():
    assert log_ratio(np.log([[8.0, 2.0], [1.0, 1.0]])) == pytest.approx([np.log(4), 0])
    assert log_ratio(np.log([8.0, 2.0, 2.0])) == pytest.approx(np.log(4) * 2 / 3)
