"""A corpus and the key that its cache goes by."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from forked import fork, until

from distill.base.integrity import file_is_whole
from distill.data import corpus
from distill.data.corpus import open_corpus
from distill.recipe import CorpusConfig


def test_the_key_follows_the_content(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    config = CorpusConfig(source="files", files=[str(path)])
    key = open_corpus(config, 0, tmp_path).key
    assert open_corpus(config, 5, tmp_path).key == key  # nothing is random here
    path.write_text("two")
    assert open_corpus(config, 0, tmp_path).key != key


# --------------------------------------------------------------------------------------- sampled text, two runs at once


def slow_samples(tmp_path: Path, monkeypatch, name: str, stop_at: int | None = None) -> Callable[[], None]:
    """Samples 12 documents in batches of 2, each taking a while; waits for a kill before the batch `stop_at`."""
    config = CorpusConfig(max_documents=12, sample_batch_size=2)

    def sample_batch(model, tokenizer, config, seed, number):
        if number == stop_at:
            (tmp_path / f"{name}.waits").touch()
            signal.pause()
        with (tmp_path / f"{name}.batches").open("a") as stream:
            stream.write(f"{number}\n")
        time.sleep(0.02)
        return [f"document {number}.{i}" for i in range(2)]

    def work() -> None:
        monkeypatch.setattr(corpus, "sample_batch", sample_batch)
        corpus.open_corpus(config, 0, tmp_path / "cache")

    return work


def batches(tmp_path: Path, name: str) -> list[int]:
    return [int(line) for line in (tmp_path / f"{name}.batches").read_text().split()]


def test_two_runs_may_sample_into_one_cache(tmp_path, monkeypatch):
    children = [fork(slow_samples(tmp_path, monkeypatch, name)) for name in ("one", "two")]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    (path,) = (tmp_path / "cache").glob("sampled-*.jsonl")
    assert file_is_whole(path)
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert texts == [f"document {number}.{i}" for number in range(6) for i in range(2)]
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}.sha256"]


def test_sampled_text_is_gone_on_with_only_when_its_run_has_ended(tmp_path, monkeypatch):
    """While the first run waits in its fourth batch a second one begins by itself; killed, a third goes on after it."""
    first = fork(slow_samples(tmp_path, monkeypatch, "first", stop_at=3))
    until((tmp_path / "first.waits").exists)
    second = fork(slow_samples(tmp_path, monkeypatch, "second", stop_at=5))
    until((tmp_path / "second.waits").exists)
    assert batches(tmp_path, "second") == [0, 1, 2, 3, 4]
    for child in (first, second):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert os.waitpid(fork(slow_samples(tmp_path, monkeypatch, "third")), 0)[1] == 0
    assert batches(tmp_path, "third") in ([3, 4, 5], [5])
    (path,) = (tmp_path / "cache").glob("sampled-*.jsonl")
    assert file_is_whole(path)
    assert len(path.read_text().splitlines()) == 12
