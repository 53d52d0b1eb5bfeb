"""A client: its text as blocks, and its update, which is the product's own training over them.

Teacher and student are loaded once in a process. An update sets the student's weights to those that it was sent, trains
with an optimizer that begins anew, and gives the weights back. It depends on the weights, the recipe, the round and the
client alone, so that an update that is done again gives the same bits.
"""

import gc
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.base.console import counter, say
from distill.base.errors import UserError
from distill.data.blocks import BlockDataset
from distill.data.corpus import Corpus
from distill.data.counts import PackingCounts
from distill.data.overlap import look_for_held_out
from distill.data.packing import NothingPackedError, check_packed, packed_blocks, tell_packed
from distill.federation.aggregation import Answer, Weights, finite
from distill.federation.client_scores import sample
from distill.federation.partitions import partition, periods
from distill.models.adapters import trainable_state
from distill.objective.chunks import IGNORED
from distill.privacy.accountant import require_documents
from distill.recipe import Recipe
from distill.recipe_check import LARGEST_SEED
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist
from distill.training.run import Models, fit
from distill.training.trainer import NotFiniteError, Part

_READ = 512  # blocks at a time


@dataclass(frozen=True)
class ClientText:
    """A client's text in each period.

    Args:
        documents: How many documents it holds then.
        blocks: Those documents, packed; None where they give no block, or none that a private update reads.
        sample: Documents of all periods that the finished student is scored on; none where nothing is asked of it.
    """

    documents: tuple[int, ...]
    blocks: tuple[BlockDataset | None, ...]
    sample: tuple[str, ...] = ()

    @property
    def usable(self) -> tuple[int, ...]:
        """How many documents of each period are trained on: 0 where they give no block."""
        return tuple(n if blocks is not None else 0 for n, blocks in zip(self.documents, self.blocks, strict=True))


@dataclass(frozen=True)
class Clients:
    """The text of all clients, and what rounds are watched on: held-out text, and the word list's swapper."""

    texts: tuple[ClientText, ...]
    held_out: Sequence[str]
    swapper: Swapper

    def documents(self, period: int) -> list[int]:
        """Of each client in a period; 0 where they give no block."""
        return [text.usable[period] for text in self.texts]

    @property
    def identities(self) -> tuple[str, ...]:
        """What tells this text from others, each by itself: what it was made of, and its content."""
        of_all = [
            blocks.identities if blocks is not None else ("", "") for text in self.texts for blocks in text.blocks
        ]
        return tuple(hashlib.sha256(" ".join(parts).encode()).hexdigest() for parts in zip(*of_all, strict=True))

    @property
    def least(self) -> BlockDataset:
        """The blocks of the client and period with the fewest documents."""
        given = [
            (documents, blocks)
            for text in self.texts
            for documents, blocks in zip(text.documents, text.blocks, strict=True)
            if blocks is not None
        ]
        return min(given, key=lambda pair: pair[0])[1]


def client_blocks(
    recipe: Recipe,
    corpus: Corpus,
    tokenizer: Any,
    swapper: Swapper | None,
    cache_dir: Path,
    held_out: Sequence[str] = (),
    one_document: bool = False,
    own: bool = False,
) -> tuple[Clients, PackingCounts]:
    """The corpus shared out among the clients, each client's text packed by itself: what `training_blocks` is to one.

    All documents are held in memory while they are shared out.

    Args:
        recipe: Says how.
        corpus: The documents of all clients.
        tokenizer: A fast tokenizer.
        swapper: Makes the counterfactuals; None for a single view.
        cache_dir: Folder of the blocks.
        held_out: Held-out text.
        one_document: See `pack`.
        own: The corpus is the text of one client, who is the only one in the answer; nothing need be swapped in it, as
            others train with it.

    Raises:
        UserError: several processes were started; see `partition`; or there is nothing to learn from.
    """
    config = recipe.federation
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("federation runs its clients one after another in one process; start one, without a launcher")
    finder = swapper or Swapper(load_wordlist(recipe.wordlist))
    documents = list(corpus.documents())
    if own:
        shares = [np.arange(len(documents))]
    else:
        shares = partition(documents, config.partition, config.clients, recipe.seed, finder)
    report = counter("packing the clients' text", "clients")
    pack = partial(
        packed_blocks, tokenizer=tokenizer, swapper=swapper, block_length=recipe.block_length, cache_dir=cache_dir,
        one_document=one_document, share=True,
    )  # fmt: skip
    texts, total = [], PackingCounts()
    for number, share in enumerate(shares):
        text, counts = _client_text(recipe, corpus, documents, share, pack)
        texts.append(text)
        total = total + counts
        report(number + 1, len(shares))
    check_packed(total, None if own else swapper)
    if recipe.is_private:
        require_documents(sum(blocks is not None for text in texts for blocks in text.blocks))
    tell_packed(total, swapper)
    sizes = [sum(text.documents) for text in texts]
    without = f"; {sizes.count(0)} hold none" if 0 in sizes else ""
    middle = f"half of them {np.median(sizes):,.0f} or more{without}"
    say(f"{len(texts)} clients hold {min(sizes):,} to {max(sizes):,} documents, {middle}")
    look_for_held_out(recipe, corpus, held_out, cache_dir, total)
    return Clients(tuple(texts), held_out, finder), total


def _client_text(
    recipe: Recipe,
    corpus: Corpus,
    documents: Sequence[str],
    share: np.ndarray,
    pack: Callable[[Corpus], tuple[BlockDataset, PackingCounts]],
) -> tuple[ClientText, PackingCounts]:
    """A client's text, which is its share of a corpus, and what packing it saw."""
    parts, total = periods(share, recipe.federation.periods), PackingCounts()
    blocks: list[BlockDataset | None] = []
    for part in parts:
        try:
            packed, counts = pack(_share_of(corpus, documents, part))
        except NothingPackedError:
            blocks.append(None)
            continue
        # A document whose first piece bears no loss gives later ones alone, and those are no unit of privacy.
        blocks.append(None if recipe.is_private and not len(packed.first_pieces()) else packed)
        total = total + counts
    scored = sample([documents[i] for i in share]) if recipe.federation.client_metrics else ()
    return ClientText(tuple(map(len, parts)), tuple(blocks), scored), total


def _share_of(corpus: Corpus, documents: Sequence[str], numbers: np.ndarray) -> Corpus:
    """Some documents of a corpus, with a key of their own."""
    which = hashlib.sha256(numbers.astype(np.int64).tobytes()).hexdigest()
    key = hashlib.sha256(f"{corpus.key} {which}".encode()).hexdigest()[:32]
    return Corpus(key, lambda: (documents[i] for i in numbers))


# ------------------------------------------------------------------------------------------------------------ update


def client_recipe(recipe: Recipe, number: int, client: int) -> Recipe:
    """The recipe of one update.

    It makes `local_steps` steps, logs them, and has a seed of its own; that of client 0 in round 0 is the recipe's. It
    saves checkpoints where it makes more steps than lie between two of them: a shorter one is sooner done again.

    Args:
        recipe: The run's.
        number: Of the round, counted from 0.
        client: Its number.
    """
    steps = recipe.federation.local_steps
    trainer = {**recipe.trainer, "max_steps": steps}
    trainer["logging_steps"] = min(float(trainer.get("logging_steps", steps)), steps)
    if trainer.get("save_strategy", "steps") == "steps" and float(trainer.get("save_steps", 200)) >= steps:
        trainer["save_strategy"] = "no"
    seed = (recipe.seed + 1_000_003 * number + 7_919 * client) % (LARGEST_SEED + 1)
    return replace(recipe, seed=seed, trainer=trainer)


@contextmanager
def many_updates() -> Iterator[None]:
    """Around many updates: what is loaded now is left out of garbage collections, of which each training makes one.

    To look through all objects of the libraries takes a second, longer than a short update.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def set_weights(student: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Set a student's trained weights."""
    with torch.no_grad():
        for name, weight in trainable_state(student).items():
            weight.copy_(weights[name])


def get_weights(student: torch.nn.Module) -> Weights:
    """A copy of a student's trained weights on the CPU; a tied one stands in it once."""
    return {name: weight.cpu().clone() for name, weight in trainable_state(student).items()}


def loss_tokens(blocks: BlockDataset, augment: bool) -> int:
    """Tokens that bear loss in all blocks, in their counterfactuals too if these are trained on."""
    total = 0
    for first in range(0, len(blocks), _READ):
        for block in blocks.__getitems__(range(first, min(first + _READ, len(blocks)))):
            total += int(((block.labels if augment else block.labels[:1]) != IGNORED).sum())
    return total


def update(
    recipe: Recipe,
    models: Models,
    blocks: BlockDataset,
    weights: Weights,
    *,
    number: int,
    client: int,
    folder: Path,
    cache: Path,
    signals: Sequence[int] = (),
) -> Answer:
    """A client's update: the student trained on the client's text from the weights that it was sent.

    Args:
        recipe: The run's.
        models: Prepared once, see `training.run.prepare`; the student's weights are changed.
        blocks: The client's text.
        weights: Of the round.
        number: Of the round, counted from 0.
        client: Its number.
        folder: Of the update's checkpoints, removed when it is done.
        cache: Of the teacher's hidden states.
        signals: Those that came, see `stop_signals_kept`.

    Returns:
        The answer; one without weights where a loss, a gradient or a weight was not finite.

    Raises:
        UserError: whatever else stops a training.
        Stopped: a signal came; the step was finished and saved.
    """
    config = recipe.federation
    part = Part(
        first=number * config.local_steps,
        steps=config.rounds * config.local_steps,
        mu=config.mu if config.algorithm == "prox" else 0.0,
    )
    begun = time.perf_counter()
    set_weights(models.student, weights)
    own = client_recipe(recipe, number, client)
    # Epsilon counts documents; how many tokens they have is for nobody to know.
    weight = len(blocks.first_pieces()) if recipe.is_private else loss_tokens(blocks, recipe.target.augment)
    try:
        trainer = fit(own, models, blocks, folder, cache, signals, part)
    except NotFiniteError as error:
        shutil.rmtree(folder, ignore_errors=True)
        return Answer(client, None, weight, time.perf_counter() - begun, str(error))
    shutil.rmtree(folder, ignore_errors=True)
    return Answer(
        client,
        get_weights(models.student),
        weight,
        time.perf_counter() - begun,
        figures=_means([entry for entry in trainer.state.log_history if "loss" in entry]),
        totals=asdict(trainer.training_log.totals),
        privacy=trainer.training_log.beside.get("privacy", {}),
    )


def _means(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of what every entry of a log holds, but for where it stands; entries that are not finite (a step that was left
    out has such a norm) do not count."""
    kept = [finite(entry) for entry in entries]
    names = set.intersection(*(set(entry) for entry in entries)) - {"step", "epoch"} if entries else set()
    of_each = {name: [entry[name] for entry in kept if name in entry] for name in sorted(names)}
    return {name: sum(values) / len(values) for name, values in of_each.items() if values}
