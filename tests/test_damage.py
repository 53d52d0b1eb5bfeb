"""A bit that flipped in a run's folder is seen, and what it was in is made again."""

import os
import shutil

import killed
import pytest
from broken import flip_bit


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("cache/sampled-*.jsonl", "sampling it again"),
        ("cache/blocks-*.arrow", "packing again"),
        ("cache/blocks-*.json", "packing again"),
        ("cache/scores/perplexity-*.json", "measuring again"),
        ("student/model.safetensors", "student is damaged (model.safetensors is not what was written"),
    ],
)
@pytest.mark.parametrize("how", ["flipped", pytest.param("truncated", marks=pytest.mark.slow)])
def test_what_is_damaged_is_seen_and_made_again(small_run, finished_run, tmp_path, pattern, said, how):
    shutil.copytree(finished_run, tmp_path / "again")
    for path in (tmp_path / "again" / "run").glob(pattern):
        if how == "flipped":
            flip_bit(path)
        else:
            os.truncate(path, path.stat().st_size // 2)
    ending = killed.run(tmp_path / "again", small_run)
    assert ending.code == 0, ending.errors[-3000:]
    assert "damaged" in ending.errors
    if how == "flipped" or "student" not in pattern:
        assert said in ending.errors
    assert killed.results(tmp_path / "again") == killed.results(finished_run)


def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(small_run, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "again")
    run = tmp_path / "again" / "run"
    shutil.rmtree(run / "student")
    flip_bit(run / "checkpoints" / "student" / "checkpoint-6" / "optimizer.pt")
    ending = killed.run(tmp_path / "again", small_run)
    assert ending.code == 0, ending.errors[-3000:]
    assert "skipped run/checkpoints/student/checkpoint-6: optimizer.pt" in ending.errors
    assert ending.phases.count("l") == 2 * 1  # steps 5 and 6
    assert killed.results(tmp_path / "again") == killed.results(finished_run)
