"""Large inputs: what they may cost. Nearly all slow; load.py measures, each part in a process of its own."""

import json
import sys
from argparse import Namespace

import forked
import pytest
from shared import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests" / "benchmarks"))

import load
from load import measured, write_corpus

pytestmark = pytest.mark.timeout(4 * 3600)

GIGABYTE = 10**9
ROOM = 1.5 * GIGABYTE  # resident memory that a corpus of a gigabyte may take


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A gigabyte of JSON lines, and the folder of its blocks."""
    folder = tmp_path_factory.mktemp("load")
    write_corpus(folder / "corpus.jsonl", GIGABYTE)
    return {"corpus": folder / "corpus.jsonl", "cache": folder}


@pytest.mark.slow
def test_a_gigabyte_is_swapped_in_little_memory(corpus):
    figures = measured("swap", **corpus)
    assert figures["bytes"] >= GIGABYTE
    assert figures["resident"] < ROOM / 10


@pytest.mark.slow
def test_a_gigabyte_is_packed_and_read_in_bounded_memory(corpus):
    """Of the blocks that are read, the pages of the mapped file are resident too, and the system may take them back."""
    packing = measured("pack", **corpus)
    assert packing["tokens"] > GIGABYTE / 10
    assert packing["resident"] < ROOM
    reading = measured("read", **corpus)
    assert reading["blocks"] == packing["blocks"]
    assert reading["anonymous"] < ROOM


@pytest.mark.slow
def test_a_gigabyte_is_streamed_in_little_memory(corpus):
    """Packed while it is read, all of it: nothing is mapped, so nothing needs to be left out of what is resident."""
    figures = measured("stream", **corpus)
    assert figures["tokens"] > GIGABYTE / 10
    assert figures["resident"] < ROOM


@pytest.mark.slow
def test_a_list_of_50_000_rows_is_quick():
    figures = measured("wordlist", rows=50_000)
    assert figures["rows"] == 50_000
    assert figures["loading"] < 2  # seconds of processor time
    assert figures["share_of_speed"] > 0.5


@pytest.mark.slow
def test_200_000_prompts_take_bounded_memory():
    """Ten times the prompts may take no more than their own texts, numbers and scores: 4 kB each."""
    few, many = (measured("prompts", count=count) for count in (20_000, 200_000))
    assert many["prompts"] == 200_000
    assert many["resident"] - few["resident"] < 180_000 * 4_000


@pytest.mark.slow
def test_ten_thousand_steps_leak_nothing():
    resident = measured("steps", count=10_000)["resident_every_100"]
    assert len(resident) == 100
    assert max(resident[10:]) < 1.03 * resident[9]


def test_steps_are_watched(monkeypatch):
    """A few of the many, in a fork: so that what takes minutes is not found broken in the end."""
    monkeypatch.setattr(load, "STEPS_BETWEEN_LOOKS", 10)
    ended = forked.call(lambda: print(json.dumps(load.steps(Namespace(count=20)))))
    assert ended.returncode == 0, ended.stderr
    resident = json.loads(ended.stdout)["resident_every_10"]
    assert len(resident) == 2 and min(resident) > 0
