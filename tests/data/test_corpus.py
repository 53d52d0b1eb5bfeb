"""A corpus and the key that its cache goes by."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from as_on_gpu import write_as_on_gpu
from chat_templates import chat_tokenizer
from datasets import Dataset
from forked import fork, until

from distill.base.errors import UserError
from distill.base.integrity import file_is_whole
from distill.data import corpus
from distill.data.corpus import Corpus, open_corpus, with_template
from distill.recipe import CorpusConfig
from distill.text.conversations import Messages, rendered


def test_the_key_follows_the_content(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    config = CorpusConfig(source="files", files=[str(path)])
    key = open_corpus(config, 0, tmp_path).key
    assert open_corpus(config, 5, tmp_path).key == key  # nothing is random here
    path.write_text("two")
    assert open_corpus(config, 0, tmp_path).key != key


@pytest.mark.parametrize(
    ("name", "rule", "differs"),
    [
        ("a.tsv", "TABS_VERSION", True),
        ("a.tsv.gz", "TABS_VERSION", True),
        ("a.csv", "TABS_VERSION", False),
        ("a.txt", "TABS_VERSION", False),
        ("a.txt", "LINES_VERSION", True),
        ("a.tsv", "LINES_VERSION", False),
    ],
)
def test_what_was_read_by_another_rule_is_not_used(tmp_path, monkeypatch, name, rule, differs):
    (tmp_path / name).write_text("text\nShe left.\n")
    config = CorpusConfig(source="files", files=[str(tmp_path / name)])
    key = open_corpus(config, 0, tmp_path).key
    monkeypatch.setattr(corpus, rule, 3)
    assert (open_corpus(config, 0, tmp_path).key != key) is differs


# --------------------------------------------------------------------------------------- sampled text, two runs at once


def slow_samples(tmp_path: Path, monkeypatch, name: str, stop_at: int | None = None) -> Callable[[], None]:
    """Samples 12 documents in batches of 2, each taking a while; waits for a kill before the batch `stop_at`."""
    config = CorpusConfig(max_documents=12, sample_batch_size=2)

    def sample_batch(model, tokenizer, config, seed, number, batches):
        assert batches == 1
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


def test_text_is_sampled_while_the_teacher_is_on_the_gpu_and_by_nobody_else(tmp_path, monkeypatch):
    lent, seen = [], []

    @contextmanager
    def lend(model):
        lent.append(model)
        yield
        lent.remove(model)

    monkeypatch.setattr(corpus, "lent_to_gpu", lend)
    monkeypatch.setattr(corpus, "sample_batch", lambda *_: seen.append(list(lent)) or ["a document"])
    config = CorpusConfig(max_documents=2, sample_batch_size=1)
    for _ in range(2):  # the second time from the cache
        open_corpus(config, 0, tmp_path, teacher="the teacher")
        assert seen == [["the teacher"]] * 2 and not lent


# --------------------------------------------------------------------------------------------------- keys and content


def test_the_key_of_a_saved_data_set_follows_its_rows(tmp_path):
    def key(rows):
        shutil.rmtree(tmp_path / "saved", ignore_errors=True)
        Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
        return open_corpus(CorpusConfig(source="files", files=[str(tmp_path / "saved")]), 0, tmp_path).key

    assert key([{"text": "one"}]) != key([{"text": "two"}])


@pytest.mark.parametrize("streaming", [False, True])
def test_the_key_of_a_data_set_of_the_hub_follows_what_it_holds_now(tmp_path, monkeypatch, streaming):
    """A folder stands for the hub: another file under the same name is another data set."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    config = CorpusConfig(source="hub", dataset=str(folder), streaming=streaming)
    keys = []
    for text in ("one", "two"):
        (folder / "x.jsonl").write_text(json.dumps({"text": text}))
        opened = open_corpus(config, 0, tmp_path)
        assert open_corpus(config, 0, tmp_path).key == opened.key
        assert list(opened.documents()) == [text]
        keys.append(opened.key)
    assert keys[0] != keys[1]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_of_the_hub_stays_at_the_commit_that_is_in_its_key(monkeypatch, tmp_path, streaming):
    """Epochs may be days apart, and so may a stop and the same command again, which names the commit of before."""
    newest, asked = ["0123456789" * 4], []

    def builder(path, name, revision):
        commit = revision or newest[0]
        return SimpleNamespace(hash=commit, config_id="default", info=SimpleNamespace(version="0.0.0"))

    monkeypatch.setattr("datasets.load_dataset_builder", builder)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, revision, **__: asked.append(revision) or {}["stop"])
    config = CorpusConfig(source="hub", dataset="some/set", streaming=streaming)
    begun = open_corpus(config, 0, tmp_path)
    newest.insert(0, "f" * 40)
    again, anew = (open_corpus(config, 0, tmp_path, commit=commit) for commit in (begun.content, None))
    for opened in (begun, again, anew):
        with pytest.raises(UserError, match="some/set"):
            next(opened.documents())
    assert asked == [newest[1], newest[1], newest[0]] == [begun.content, again.content, anew.content]
    assert begun.key == again.key != anew.key


def test_a_data_set_that_cannot_be_had_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="nobody/nothing"):
        open_corpus(CorpusConfig(source="hub", dataset="nobody/nothing"), 0, tmp_path)


# ------------------------------------------------------------------------------------------------------ conversations


TALK = Messages(["user", "assistant"], ["Who is she?", "The king."])


def test_conversations_go_through_the_template_and_the_key_knows_it(toy_tokenizer):
    one, other = (chat_tokenizer(toy_tokenizer, name) for name in ("chatml", "plain"))
    corpus_of = Corpus("k", lambda: iter([TALK, "text"]))
    found = list(with_template(corpus_of, one, "none").documents())
    assert found == [rendered(TALK, one), "text"]
    assert found[0].answers is None
    keys = {
        with_template(corpus_of, tokenizer, mask).key for tokenizer in (one, other) for mask in ("none", "assistant")
    }
    assert len(keys) == 4


def test_a_mask_needs_roles(toy_tokenizer):
    tokenizer = chat_tokenizer(toy_tokenizer, "chatml")
    documents = with_template(Corpus("k", lambda: iter([TALK, "text"])), tokenizer, "assistant").documents()
    assert next(documents).answers
    with pytest.raises(UserError, match="texts without roles"):
        next(documents)


def test_several_batches_at_once_hold_what_each_holds_alone(toy_model, toy_tokenizer, monkeypatch, tmp_path):
    """As a GPU samples them; the last one is not full, and a stopped run goes on in the middle."""
    model, config = toy_model(), CorpusConfig(max_documents=22, sample_batch_size=4, sample_tokens=12)
    alone = [text for number in range(6) for text in corpus.sample_batch(model, toy_tokenizer, config, 3, number)]
    assert len(alone) == 22 and len(set(alone)) > 18
    write_as_on_gpu(monkeypatch)
    monkeypatch.setattr(corpus, "on_gpu", lambda model: True)
    monkeypatch.setattr(corpus, "MAX_ROWS", 13)  # three batches
    asked = []
    plain = corpus.sample_batch

    def watched(*given):
        asked.append(given[-2:])
        return plain(*given)

    monkeypatch.setattr(corpus, "sample_batch", watched)
    key = open_corpus(config, 3, tmp_path / "once", model, toy_tokenizer).key
    left = tmp_path / "again" / f".sampled-{key}.jsonl.stopped.partial"
    left.parent.mkdir()
    left.write_text("".join(json.dumps({"text": text}) + "\n" for text in alone[:6]))
    for folder in ("once", "again"):
        assert list(open_corpus(config, 3, tmp_path / folder, model, toy_tokenizer).documents()) == alone
    assert asked == [(0, 3), (3, 3), (1, 3), (4, 2)]
