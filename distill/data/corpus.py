"""A text source (files, a hub data set, samples from the teacher) -> documents, one string each.

A `Corpus` knows its content: whatever decides its documents, files and versions of data sets included, is in its key.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from distill.base.console import say
from distill.base.errors import UserError
from distill.base.integrity import claimed_partial, file_hash, file_is_whole, put_file
from distill.base.row_files import LINES_VERSION, TABS_VERSION, is_prose, table_delimiter
from distill.models.architecture import lent_to_gpu
from distill.models.generation import generate
from distill.models.wide_decoding import MAX_ROWS, on_gpu
from distill.recipe import CorpusConfig
from distill.text.conversations import Messages, rendered, with_one_date
from distill.text.documents import CUTS_VERSION, corpus_files, not_loaded, read_documents


def sample_batch(
    model: Any, tokenizer: Any, config: CorpusConfig, seed: int, number: int, batches: int = 1
) -> list[str]:
    """Documents sampled from a language model (sequence-level distillation, Kim and Rush 2016).

    Every document starts from nothing but the start token and runs to the end token or `config.sample_tokens`. A
    batch depends on `seed` and its number alone, so that a stopped run can go on at any batch, and so that several may
    be sampled at once.

    Args:
        model: A causal language model with `generate`.
        tokenizer: Its tokenizer.
        config: How many documents, how long, how sampled.
        seed: Seed of the whole corpus.
        number: Which batch, counted from 0.
        batches: How many, from that number on.
    """
    assert config.max_documents is not None  # `check_recipe` asks for it
    size, numbers = config.sample_batch_size, range(number, number + batches)
    left = config.max_documents - number * size
    found = generate(
        model,
        tokenizer,
        [""] * batches,
        samples=min(size, left),
        max_new_tokens=config.sample_tokens,
        temperature=config.sample_temperature,
        top_p=config.sample_top_p,
        batch_size=None if on_gpu(model) else size,
        seed=[seed * 1_000_003 + one for one in numbers],
    )
    return [text for batch in found for text in batch][:left]


@dataclass(frozen=True)
class Corpus:
    """Documents that can be read more than once, and a key that changes whenever they do.

    content: A hash of the files that they come from, or the commit of their hub data set; None where neither is known.
    """

    key: str
    documents: Callable[[], Iterator[str]]
    content: str | None = None


def open_corpus(
    config: CorpusConfig,
    seed: int,
    cache_dir: Path,
    teacher: Any = None,
    tokenizer: Any = None,
    teacher_key: str = "",
    progress: Callable[[int, int], None] | None = None,
    commit: str | None = None,
) -> Corpus:
    """Make a corpus ready to read; samples from the teacher are drawn here, and kept in the cache.

    Args:
        config: The source.
        seed: Decides samples and order.
        cache_dir: Folder of the sampled text.
        teacher, tokenizer: Needed for `source: teacher`.
        teacher_key: Hash of all that decides what the teacher writes, see `model_hash`.
        progress: Called while sampling with (documents done, documents in all).
        commit: By which a hub data set is opened, in the place of `config.revision`.

    Raises:
        UserError: see `read_documents`.
    """
    # What is left out labels nothing, and changes no document: keys of before it was there stay.
    parts: dict[str, Any] = {"config": {k: v for k, v in asdict(config).items() if k != "label" or v is not None}}
    if config.passage_chars or config.document_start:
        parts["cut by"] = CUTS_VERSION
    if config.source == "teacher" or config.shuffle:
        parts["seed"] = seed
    content = None
    if config.source == "teacher":
        parts["teacher"] = teacher_key
    elif config.source == "files":
        paths = corpus_files(config)
        parts["files"] = [_content_hash(path) for path in paths]
        if any(table_delimiter(path) == "\t" for path in paths):
            parts["tabs"] = TABS_VERSION
        if any(map(is_prose, paths)) and "cut by" not in parts:
            parts["lines"] = LINES_VERSION
        content = hashlib.sha256(json.dumps(parts["files"], sort_keys=True).encode()).hexdigest()
    else:
        parts["dataset"], content = _data_set_version(config, commit)
        config = replace(config, revision=content or config.revision)
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
    if config.source != "teacher":
        return Corpus(key, partial(read_documents, config, seed), content)
    path = cache_dir / f"sampled-{key}.jsonl"
    if not file_is_whole(path):
        if path.exists():
            say(f"{path} is damaged; sampling it again")
        _sample_to_file(path, config, seed, teacher, tokenizer, progress)
    sampled = replace(config, source="files", files=[str(path)], text_column="text", max_documents=None)
    return Corpus(key, partial(read_documents, sampled, seed))


def _content_hash(path: Path) -> str | dict[str, str]:
    """Of a file; of all files in a folder of save_to_disk, by their names."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return {file.relative_to(path).as_posix(): file_hash(file) for file in files}
    return file_hash(path)


def _data_set_version(config: CorpusConfig, commit: str | None) -> tuple[list[str], str | None]:
    """What a data set of the hub is now: its configuration, its commit (of a folder, a hash of its files), its version.

    With it comes its commit, if it has one: an epoch that begins next week then reads what was read before.
    """
    import datasets

    try:
        builder = datasets.load_dataset_builder(str(config.dataset), config.name, revision=commit or config.revision)
    except Exception as error:  # the libraries below raise many kinds
        raise not_loaded(config, error) from None
    known = str(builder.hash) if re.fullmatch("[0-9a-f]{40}", str(builder.hash)) else None
    return [builder.config_id, str(builder.hash), str(builder.info.version)], known


def with_template(corpus: Corpus, tokenizer: Any, mask: str) -> Corpus:
    """The same corpus with every conversation in it as the tokenizer's chat template renders it.

    Args:
        corpus: Texts and `Messages`.
        tokenizer: With a chat template, if there are any conversations.
        mask: `assistant`: only what the assistant writes bears loss. `none`: everything does.

    Raises:
        UserError: while documents are read: see `rendered`; or a text is among them although there is a mask.
    """
    template = with_one_date(str(getattr(tokenizer, "chat_template", None)))
    key = hashlib.sha256(f"{corpus.key} {mask} {template}".encode()).hexdigest()[:32]
    return Corpus(key, partial(_in_template, corpus.documents, tokenizer, mask))


def _in_template(documents: Callable[[], Iterator[str]], tokenizer: Any, mask: str) -> Iterator[str]:
    for document in documents():
        if isinstance(document, Messages):
            yield rendered(document, tokenizer, answers_only=mask == "assistant")
        elif mask == "assistant":
            raise UserError(
                "corpus.mask is assistant, but the corpus holds texts without roles; set corpus.text_column to a "
                f"column of messages, or leave the mask out (the text begins '{document[:40]}')"
            )
        else:
            yield document


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
    with lent_to_gpu(teacher), claimed_partial(path) as stream:
        stream.seek(0)
        whole = [line for line in stream if line.endswith(b"\n")]
        batches = len(whole) // size
        stream.truncate(sum(map(len, whole[: batches * size])))
        if progress:
            progress(batches * size, total)
        last = -(-total // size)
        at_once = max(1, MAX_ROWS // size) if on_gpu(teacher) else 1
        for number in range(batches, last, at_once):
            documents = sample_batch(teacher, tokenizer, config, seed, number, min(at_once, last - number))
            stream.writelines(json.dumps({"text": d}).encode() + b"\n" for d in documents)
            stream.flush()
            if progress:
                progress(min(total, (number + at_once) * size), total)
        if file_is_whole(path):  # another run with the same cache was quicker
            Path(stream.name).unlink()
        else:
            put_file(Path(stream.name), path)
