"""A text source (files, a hub data set, samples from the teacher) -> documents, one string each."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from distill.base.console import say
from distill.base.integrity import file_hash, file_is_whole, partial_of, put_file
from distill.models.generation import generate
from distill.recipe import CorpusConfig
from distill.text.documents import corpus_files, read_documents


def sample_batch(model: Any, tokenizer: Any, config: CorpusConfig, seed: int, number: int) -> list[str]:
    """Documents sampled from a language model (sequence-level distillation, Kim and Rush 2016).

    Every document starts from nothing but the start token and runs to the end token or `config.sample_tokens`. A
    batch depends on `seed` and its number alone, so that a stopped run can go on at any batch.

    Args:
        model: A causal language model with `generate`.
        tokenizer: Its tokenizer.
        config: How many documents, how long, how sampled.
        seed: Seed of the whole corpus.
        number: Which batch, counted from 0.
    """
    assert config.max_documents is not None  # `check_recipe` asks for it
    return generate(
        model,
        tokenizer,
        [""],
        samples=min(config.sample_batch_size, config.max_documents - number * config.sample_batch_size),
        max_new_tokens=config.sample_tokens,
        temperature=config.sample_temperature,
        top_p=config.sample_top_p,
        batch_size=config.sample_batch_size,
        seed=seed * 1_000_003 + number,
    )[0]


@dataclass(frozen=True)
class Corpus:
    """Documents that can be read more than once, and a key that changes whenever they do."""

    key: str
    documents: Callable[[], Iterator[str]]


def open_corpus(
    config: CorpusConfig,
    seed: int,
    cache_dir: Path,
    teacher: Any = None,
    tokenizer: Any = None,
    teacher_key: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Corpus:
    """Make a corpus ready to read; samples from the teacher are drawn here, and kept in the cache.

    Args:
        config: The source.
        seed: Decides samples and order.
        cache_dir: Folder of the sampled text.
        teacher, tokenizer: Needed for `source: teacher`.
        teacher_key: Hash of the teacher's weights.
        progress: Called while sampling with (documents done, documents in all).

    Raises:
        UserError: see `read_documents`.
    """
    parts: dict[str, Any] = {"config": asdict(config)}
    if config.source == "teacher" or config.shuffle:
        parts["seed"] = seed
    if config.source == "teacher":
        parts["teacher"] = teacher_key
    elif config.source == "files":
        parts["files"] = [file_hash(path) for path in corpus_files(config)]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
    if config.source != "teacher":
        return Corpus(key, partial(read_documents, config, seed))
    path = cache_dir / f"sampled-{key}.jsonl"
    if not file_is_whole(path):
        if path.exists():
            say(f"{path} is damaged; sampling it again")
        _sample_to_file(path, config, seed, teacher, tokenizer, progress)
    sampled = replace(config, source="files", files=[str(path)], text_column="text", max_documents=None)
    return Corpus(key, partial(read_documents, sampled, seed))


def _sample_to_file(
    path: Path,
    config: CorpusConfig,
    seed: int,
    teacher: Any,
    tokenizer: Any,
    progress: Callable[[int, int], None] | None,
) -> None:
    """One line of JSON a document; a stopped run goes on after the last batch that is wholly in the file."""
    assert config.max_documents is not None  # `check_recipe` asks for it
    path.parent.mkdir(parents=True, exist_ok=True)
    size, total = config.sample_batch_size, config.max_documents
    with _claimed_partial(path) as stream:
        stream.seek(0)
        whole = [line for line in stream if line.endswith(b"\n")]
        batches = len(whole) // size
        stream.truncate(sum(map(len, whole[: batches * size])))
        for number in range(batches, -(-total // size)):
            documents = sample_batch(teacher, tokenizer, config, seed, number)
            stream.writelines(json.dumps({"text": d}).encode() + b"\n" for d in documents)
            stream.flush()
            if progress:
                progress(min(total, (number + 1) * size), total)
        if file_is_whole(path):  # another run with the same cache was quicker
            Path(stream.name).unlink()
        else:
            put_file(Path(stream.name), path)


@contextmanager
def _claimed_partial(path: Path) -> Iterator[IO[bytes]]:
    """A file to append to that will become `path`: one that a stopped run left, or a new one.

    Runs may share a cache. Whoever writes such a file holds a lock on it, which the kernel drops with the process.
    """
    left = sorted(path.parent.glob(f".{path.name}.*.partial"))
    for place in (*left, partial_of(path)):
        with place.open("a+b") as stream:
            if _locked(stream) or place not in left:  # a new one is ours, also on a disk without locks
                yield stream
                return


def _locked(stream: IO[bytes]) -> bool:
    """Whether this process has a file for itself now, which has not been renamed meanwhile."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(stream.name))
    except OSError:
        return False
