"""What is measured on a GPU, tried on a CPU: the step of two views, sampling, and the report of `gpu.sh`."""

import json
import subprocess
import sys

import numpy as np
import pytest
from shared import REPOSITORY

BENCHMARKS = REPOSITORY / "tests" / "benchmarks"


def test_the_pair_of_two_views_differs_in_few_tokens_and_is_aligned():
    import step

    row = np.arange(1000, dtype=np.int32)
    block = step.pair_block(row, 2, 1000)
    assert (block.input_ids[0] == row).all() and 5 < (block.input_ids[1] != row).sum() < 60
    assert (block.labels[:, :-1] == block.input_ids[:, 1:]).all() and (block.labels[:, -1] == -100).all()
    assert (block.boundaries[0] == block.boundaries[1]).all()
    one = step.pair_block(row, 1, 1000)
    assert one.input_ids.shape == (1, 1000)
    assert step.role_map(50257).vocab_size == 50257


@pytest.mark.slow
def test_sampling_counts_what_it_writes():
    shape = ("--texts", "3", "--batch_size", "2", "--new_tokens", "5", "--layers", "1")
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "sampling.py"), "--json", *shape], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert set(figures["sampling"]) == {"demo", "gpt2_124m"}
    for found in figures["sampling"].values():
        assert found["texts"] == 3 and 0 < found["tokens"] <= 3 * 7
        assert found["tokens_per_second"] == pytest.approx(found["tokens"] / found["seconds"])


def test_the_report_has_what_was_measured_and_lacks_what_failed(tmp_path):
    import gpu_report

    record = {"seconds": 0.05, "bytes": 2**31, "tokens_per_second": 163840.0, "matrix_rate_share": 0.3}
    step = {"contenders": {"ours_two_view_augment": record}, "setting": {"rows": 8}}
    (tmp_path / "step.json").write_text(json.dumps(step))
    (tmp_path / "step--compile.json").write_text("")  # it failed
    (tmp_path / "quickstart.seconds").write_text("100.5 160.75\n")
    found = gpu_report.report(tmp_path)
    assert found["step"]["ours_two_view_augment"] == {
        "ms": 50.0, "row_tokens_per_second": 163840.0, "matrix_rate_share": 0.3, "peak_gib": 2.0,
    }  # fmt: skip
    assert found["quickstart_seconds"] == 60.25 and not {"step_compiled", "sampling"} & set(found)
    assert 0 < gpu_report.matrix_rate("cpu") < 1e3
