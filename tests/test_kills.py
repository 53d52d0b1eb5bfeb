"""A run that is killed, again and again, ends with the same command as if it had never been."""

import random
import signal
from collections import Counter

import killed
import pytest


def whole_run(tmp_path, small_run, processes):
    folder = tmp_path / "whole"
    folder.mkdir()
    ending = killed.run(folder, small_run, processes)
    assert ending.code == 0, ending.errors[-3000:]
    assert set(ending.phases) == set(killed.PHASES)
    return killed.results(folder)


def live(folder, small_run, processes, kills):
    """Start the same command until it ends by itself, killing it as told on the way.

    Returns:
        The phases killed in, and the letters of the last start.
    """
    folder.mkdir()
    hit = []
    for kill in kills:
        ending = killed.run(folder, small_run, processes, kill)
        if ending.code == -signal.SIGKILL:
            hit.append(ending.phases[-1:] or "?")
        assert ending.code in (0, -signal.SIGKILL), ending.errors[-3000:]
    ending = killed.run(folder, small_run, processes)
    assert ending.code == 0, ending.errors[-3000:]
    return hit, ending.phases


def test_a_run_that_was_killed_four_times_ends_as_if_it_had_not_been(small_run, tmp_path):
    want = whole_run(tmp_path, small_run, 1)
    kills = [killed.Kill(*k) for k in (("s", 20, 0.0), ("w", 2, 0.03), ("f", 1, 0.02), ("m", 3, 0.01))]
    hit, last = live(tmp_path / "killed", small_run, 1, kills)
    assert len(hit) >= 3  # the last one may come too late on a machine that has other work
    assert not set("plwf") & set(last)  # both students were done
    assert killed.results(tmp_path / "killed") == want


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("processes", [1, 2])
def test_fifty_kills_lose_nothing(small_run, tmp_path, processes):
    want = whole_run(tmp_path, small_run, processes)
    rng, hit, lives = random.Random(processes), Counter(), 0
    while sum(hit.values()) < 50:  # some kills come too late, and do not count
        folder = tmp_path / f"life-{lives}"
        hit.update(live(folder, small_run, processes, killed.schedule(rng, 6))[0])
        assert killed.results(folder) == want, f"life {lives}"
        lives += 1
    print(lives, "lives:", {name: hit[letter] for letter, name in killed.PHASES.items()})
    assert set(hit) >= set(killed.PHASES), "a phase was never killed in"


@pytest.mark.slow
def test_kills_after_the_last_checkpoint_add_no_step(small_run, tmp_path):
    """Two processes, killed while the student is written: the checkpoint of the last step is gone on from, thrice."""
    want = whole_run(tmp_path, small_run, 2)
    live(tmp_path / "killed", small_run, 2, [killed.Kill("f", 1, 0.01)] * 3)
    newest = sorted(p.name for p in (tmp_path / "killed/run/checkpoints/baseline").glob("checkpoint-*"))[-1]
    assert newest == "checkpoint-6"
    assert killed.results(tmp_path / "killed") == want
