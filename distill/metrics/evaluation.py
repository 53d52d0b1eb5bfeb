"""What a metric is given: one model, local data, settings; and the passes over them that several metrics share.

Nothing here is global. Of logits no more than `MAX_LOGITS` are held at a time: a pass over texts keeps the hidden
states at the places that count (`states_at`), and makes logits of some of them after the other (`pieces`, `logits`).
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import evaluate
import numpy as np
import torch
from datasets import Features
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from distill.base.errors import UserError, suggestion
from distill.metrics.audited import Audited, read_audited
from distill.metrics.bootstrap import RESAMPLING_SEED, Card, Measurement, reported, resampled, score_of
from distill.metrics.polarity import group_counter, polarity_table
from distill.metrics.shared_context import batches as batches_of_contexts
from distill.metrics.shared_context import can_share, contexts, states_behind, targets
from distill.models.architecture import (
    backbone,
    begins_itself,
    evaluating,
    head,
    least,
    own_context,
    project,
    require_rows,
    scored_context,
    special_tokens,
)
from distill.models.generation import generate
from distill.models.loading import load_model, load_tokenizer
from distill.models.matrix_rate import count_forward
from distill.models.wide_decoding import pass_factor
from distill.objective.logit_ops import RoleMap
from distill.recipe import WHILE_TRAINING, ScoreConfig
from distill.recipe_check import check_scores, check_seed, typed
from distill.text.conversations import Conversation, as_given, chat_prompt
from distill.text.counterfactual import Swapper
from distill.text.prompts import Prompt, limit_prompts, load_prompts, without_listed_words
from distill.text.role_map import TokenRoles, token_roles
from distill.text.wordlist import WordList, load_wordlist

# Likelihoods are batched by these alone: rounding differs with the rows of a batch, and a setting that is there to fit
# the memory of a machine shall not show in the scores.
MAX_LOGITS = 2**24  # Logits made at one time: 64 MiB in fp32. A batch has no more places than that, padding included.
MAX_ROWS = 64
# A GPU takes `pass_factor` times as much, by its whole memory: the same machine gives the same file.

Progress = Callable[[str, int, int], None]


class NotMeasured(Exception):
    """Raised by a metric that cannot be measured here; the message says what is missing, and how to provide it."""


@dataclass
class Evaluation:
    """One model and what it is measured on.

    Args:
        model: A causal language model; it is measured in eval mode and given back in the mode it came in.
        tokenizer: Its (fast) tokenizer.
        wordlist: Defines the groups.
        documents: Held-out texts; conversations (`Messages`) are read through the tokenizer's chat template.
        prompts: Beginnings of texts without listed words.
        settings: Decoding, batch size, context, stride and resamples.
        seed: Seed of sampling.
        swapper: The word list's swapper, if there is one already.
        progress: Called with (what, done, in all).
        judge: A model (and its tokenizer) that judges continuations: the first of several; None: there is none.
        common: The smallest context of all models that this one is compared with, in tokens; None for no limit.
        audited: Texts that the model was trained on, others, and canaries.
        reference: Gives the `audited_losses` of a model that the texts are new to; None where there is none.
        control: Those of a model that was trained on other text of the same kind; None where there is none.
    """

    model: Any
    tokenizer: Any
    wordlist: WordList
    documents: Sequence[str] = ()
    prompts: Sequence[Prompt] = ()
    settings: ScoreConfig = field(default_factory=ScoreConfig)
    seed: int = 0
    swapper: Swapper = None  # type: ignore[assignment]  # made from the word list where it is not given
    progress: Progress | None = None
    judge: Callable[[], tuple[Any, Any]] | None = None
    common: int | None = None
    audited: Audited = field(default_factory=Audited)
    reference: Callable[[], np.ndarray] | None = None
    control: Callable[[], np.ndarray] | None = None

    def __post_init__(self) -> None:
        self.data_read: set[Path] = set()  # files of the benchmark data, as metrics come to them
        self.swapper = self.swapper or Swapper(self.wordlist)
        self.documents = [as_given(document, self.tokenizer) for document in self.documents]

    def report(self, what: str) -> Callable[[int, int], None]:
        """A progress callback for one pass."""
        return lambda done, total: self.progress(what, done, total) if self.progress else None

    def data_file(self, *parts: str) -> Path:
        """A file of the benchmark data in `settings.data`. Raises NotMeasured where it is missing."""
        where = "/".join(parts)
        if self.settings.data is None:
            raise NotMeasured(f"no benchmark data: --data names the folder that holds {where}")
        path = Path(self.settings.data, *parts)
        if not path.exists():
            raise NotMeasured(f"{where} is not in the folder of the benchmark data, {self.settings.data}")
        if path.is_file():
            self.data_read.add(path)
        return path

    @property
    def stride(self) -> int | None:
        """Tokens by which the window moves over a document longer than the context; `None` for no limit."""
        if self.context is None:
            return None
        return max(1, min(self.settings.stride or self.context // 2, self.context - 1))

    @property
    def decoding(self) -> dict[str, Any]:
        """The settings that decide the sampled texts."""
        return self.settings.decoding() | {"seed": self.seed}

    @property
    def vocab_size(self) -> int:
        """V, the width of the model's logits."""
        return self.model.config.get_text_config(decoder=True).vocab_size

    @property
    def context(self) -> int | None:
        """Longest window in tokens: the least of the model's own, the common one and the setting; `None`: no limit."""
        return least(scored_context(self.model.config), self.common, self.settings.context)

    def ruler(self, *parts: str) -> dict[str, Any]:
        """What a value is measured with, for a metric whose value depends on it.

        Args:
            parts: `tokenizer`: it counts tokens, or texts that end after a number of tokens, or words that are a token;
                `context`: it depends on how much of a text is read at once; `conversations`: it reads documents, with
                whatever a chat template puts around what is said.
        """
        return {part: getattr(self, {"tokenizer": "vocabulary"}.get(part, part)) for part in parts}

    @property
    def factor(self) -> int:
        """How many times as much as on a CPU is read at once."""
        return pass_factor(self.model.device)

    @cached_property
    def vocabulary(self) -> str:
        """SHA-256 of the tokenizer's entries and their numbers."""
        return hashlib.sha256(json.dumps(self.tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()

    @cached_property
    def conversations(self) -> str | None:
        """SHA-256 of the conversations among the documents as the chat template renders them; None without any."""
        rendered = [document for document in self.documents if isinstance(document, Conversation)]
        return hashlib.sha256(json.dumps(rendered).encode()).hexdigest() if rendered else None

    @cached_property
    def start(self) -> int:
        """The token that every document begins with."""
        return special_tokens(self.tokenizer)[0]

    @cached_property
    def roles(self) -> TokenRoles:
        """Listed words as tokens of this tokenizer."""
        return token_roles(self.wordlist, self.tokenizer, self.vocab_size)

    @cached_property
    def role_maps(self) -> list[RoleMap]:
        """One role map for each shift, on the model's device."""
        return [RoleMap(edges, self.vocab_size).to(self.model.device) for edges in self.roles.edges]

    @cached_property
    def group_tokens(self) -> list[Tensor]:
        """Token ids of each group, on the model's device."""
        return [torch.tensor(sorted(ids), dtype=torch.long, device=self.model.device) for ids in self.roles.groups]

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids with the start token in front, and the character offsets (start, end) of all but the start.

        A special token with which the text begins, as chat templates do, is the start token then.
        """
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        require_rows(max(ids, default=0), self.tokenizer, self.vocab_size, f"the text '{text[:40]}'")
        return (ids, offsets[1:]) if begins_itself(text, self.tokenizer) else ([self.start, *ids], offsets)

    def asked(self, prompt: str) -> str:
        """A prompt as the model is given it: with `settings.chat`, through its chat template."""
        return chat_prompt(prompt, self.tokenizer) if self.settings.chat else prompt

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of sequences, near in length, longest first, bounded in number and in logits; empty ones are out."""
        order = sorted((i for i, length in enumerate(lengths) if length), key=lambda i: -lengths[i])
        while order:
            room = max(1, self.factor * MAX_LOGITS // (lengths[order[0]] * self.vocab_size))
            size = min(room, self.factor * MAX_ROWS)
            yield order[:size]
            order = order[size:]

    def states_at(self, sequences: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> Tensor:
        """What the output head reads at some places of a batch, for `logits`.

        Args:
            sequences: B token sequences.
            places: For each its places, counted from 0; N in all.

        Returns:
            (N, D), one sequence after the other.
        """
        ids, mask = self.padded(sequences)
        count_forward(self.model, sum(map(len, sequences)), ids.shape[1])
        with evaluating(self.model), torch.inference_mode():
            if self.projects:
                states = backbone(self.model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            else:
                states = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        rows = [row for row, of_row in enumerate(places) for _ in of_row]
        return states[rows, [place for of_row in places for place in of_row]]

    def pieces(self, number: int) -> Iterator[slice]:
        """Slices of that many states whose logits may be held at one time."""
        size = max(1, self.factor * MAX_LOGITS // self.vocab_size)
        return (slice(first, min(first + size, number)) for first in range(0, number, size))

    def logits(self, states: Tensor) -> Tensor:
        """(N, V) logits of what `states_at` gives."""
        with torch.inference_mode():
            return project(self.model, states) if self.projects else states

    @cached_property
    def shares(self) -> bool:
        """Whether a context is read once for all that stands behind it, see `shared_context`."""
        return self.projects and can_share(self.model)

    @cached_property
    def projects(self) -> bool:
        """Whether the model's logits are what its head makes of its last hidden states.

        Of others (the two-view teacher, models that are none of transformers') whole batches of logits are made by the
        model itself.
        """
        if not isinstance(self.model, PreTrainedModel):
            return False
        try:
            head(self.model)
        except UserError:
            return False
        return True

    def token_log_probs(
        self, sequences: Sequence[Sequence[int]], what: str = "likelihood", behind: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """log P(token | all before it) of every token but the first of each sequence; one (L - 1,) float64 for each.

        Sequences longer than the context are cut on the left, and the tokens cut off have log-probability 0.

        Args:
            sequences: Token ids, one list for each.
            what: Name of the pass, for progress.
            behind: How many of a sequence's log-probabilities are not asked for, those of its beginning: they are 0
                too, and no logits are made there. Where neighbours begin alike, that is read once.
        """
        cut = [max(0, len(ids) - self.context) if self.context else 0 for ids in sequences]
        kept = [list(ids[first:]) for ids, first in zip(sequences, cut, strict=True)]
        found = [np.zeros(max(0, len(ids) - 1)) for ids in sequences]
        before = behind if behind is not None else [0] * len(sequences)
        asked = [max(0, len(ids) - 1 - max(first, b)) for ids, first, b in zip(sequences, cut, before, strict=True)]
        done, report = 0, self.report(what)
        for batch, losses in self._losses_by_batch(kept, asked, share=behind is not None):
            for i, of_sequence in zip(batch, losses, strict=True):
                found[i][len(found[i]) - asked[i] :] = -of_sequence.numpy()
            done += len(batch)
            report(done, len(sequences))
        return found

    def _losses_by_batch(
        self, sequences: Sequence[list[int]], asked: Sequence[int], share: bool
    ) -> Iterator[tuple[list[int], Sequence[Tensor]]]:
        """Places of some sequences, and `_losses` of them; first of those that share their context with neighbours."""
        shared, others = contexts(sequences, asked) if share and self.shares else ([], list(range(len(sequences))))
        room = self.factor * MAX_LOGITS // self.vocab_size
        for together in batches_of_contexts(shared, room, self.factor * MAX_ROWS):
            places = [place for one in together for place in one.places]
            losses = self._losses_of(states_behind(self.model, together), targets(together))
            yield places, losses.split([asked[place] for place in places])
        for batch in self.batches([len(sequences[i]) for i in others]):
            places = [others[i] for i in batch]
            yield places, self._losses([sequences[i] for i in places], [asked[i] for i in places])

    def _losses(self, sequences: Sequence[Sequence[int]], counted: Sequence[int]) -> Sequence[Tensor]:
        """-log P of the last so many tokens of each sequence given all before them; float64 on the CPU, one for each.

        A sequence's first token is never among them.
        """
        spans = [range(len(ids) - 1 - new, len(ids) - 1) for ids, new in zip(sequences, counted, strict=True)]
        tokens = [ids[place + 1] for ids, span in zip(sequences, spans, strict=True) for place in span]
        return self._losses_of(self.states_at(sequences, spans), tokens).split(list(counted))

    def _losses_of(self, states: Tensor, tokens: Sequence[int]) -> Tensor:
        """-log P of tokens that are predicted from these states; float64 on the CPU."""
        wanted = torch.tensor(tokens, dtype=torch.long, device=states.device)
        losses = torch.empty(len(wanted), dtype=torch.float64, device=states.device)
        for piece in self.pieces(len(wanted)):
            logits = self.logits(states[piece]).float()
            losses[piece] = torch.nn.functional.cross_entropy(logits, wanted[piece], reduction="none").double()
        return losses.cpu()

    def hidden_states(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """(B, T, D) last hidden states (what the output head reads) of a batch, padded on the right with zeros."""
        ids, mask = self.padded(sequences)
        count_forward(self.model, sum(map(len, sequences)), ids.shape[1])
        with evaluating(self.model), torch.inference_mode():
            states = backbone(self.model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return states * mask.unsqueeze(-1)

    def padded(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """(B, T) token ids and attention mask on the model's device; the padding is on the right."""
        ids = [torch.tensor(sequence, dtype=torch.long) for sequence in sequences]
        mask = pad_sequence([torch.ones_like(of_one) for of_one in ids], batch_first=True)
        padded = pad_sequence(ids, batch_first=True, padding_value=self.start)
        return padded.to(self.model.device), mask.to(self.model.device)

    def group_log_masses(self, states: Tensor) -> np.ndarray:
        """Log-probability of each group's tokens together, from (N, D) of `states_at`; (N, K) float64."""
        masses = torch.empty(len(states), len(self.group_tokens), dtype=torch.float64, device=states.device)
        for piece in self.pieces(len(states)):
            logits = self.logits(states[piece]).float()
            total = logits.logsumexp(dim=-1)
            of_groups = [logits[:, ids].logsumexp(dim=-1) - total for ids in self.group_tokens]
            masses[piece] = torch.stack(of_groups, dim=-1).double()
        return masses.cpu().numpy()

    @cached_property
    def next_word_masses(self) -> np.ndarray:
        """Log-probability that the next word after each prompt is one of each group's; (prompts, K) float64.

        NaN after one that is longer than the model's own context.
        """
        read = [self.encode(self.asked(prompt.text))[0] for prompt in self.prompts]
        room = own_context(self.model.config)
        sequences = [ids if room is None or len(ids) <= room else [] for ids in read]  # no batch has an empty one
        masses = np.full((len(sequences), self.wordlist.num_groups), np.nan)
        done, report = 0, self.report("next word")
        for batch in self.batches([len(ids) for ids in sequences]):
            states = self.states_at([sequences[i] for i in batch], [[len(sequences[i]) - 1] for i in batch])
            masses[batch] = self.group_log_masses(states)
            done += len(batch)
            report(done, len(sequences))
        return masses

    @cached_property
    def continuations(self) -> list[list[str]]:
        """Sampled continuations of each prompt."""
        return generate(
            self.model,
            self.tokenizer,
            [self.asked(prompt.text) for prompt in self.prompts],
            batch_size=self.settings.batch_size,
            progress=self.report("continuations"),
            **self.decoding,
        )

    @cached_property
    def polarities(self) -> tuple[np.ndarray, str]:
        """(prompts, K + 2): continuations of each polarity, the last two tie and neutral; and the rule of counting."""
        count, rule = group_counter(self.wordlist, self.swapper)
        return polarity_table(self.continuations, count, self.wordlist.num_groups), rule

    @cached_property
    def likelihoods(self) -> np.ndarray:
        """Negative log-likelihood of each document in nats, its tokens and its UTF-8 bytes; (N, 3).

        Each document stands alone behind the start token; the end of a document is not counted. One longer than the
        context is read through windows that move by the stride: every token is counted once, in the first window that
        holds it, so that all but the first stretch have at least context - stride tokens before them.
        """
        encoded = [self.encode(document)[0] for document in self.documents]
        sizes = [(0, len(ids) - 1, len(text.encode())) for ids, text in zip(encoded, self.documents, strict=True)]
        table = np.array(sizes, dtype=float).reshape(-1, 3)
        for number, _, losses in self._losses_through_windows(encoded, "likelihood"):
            table[number, 0] += losses.sum().item()
        return table

    def _losses_through_windows(self, sequences: Sequence[list[int]], what: str) -> Iterator[tuple[int, slice, Tensor]]:
        """-log P of every token but the first of each sequence, window by window, read as `likelihoods` tells.

        Yields:
            The number of a sequence, which of its tokens behind the first a window counts, and their losses, float64.
        """
        windows = [(number, *window) for number, ids in enumerate(sequences) for window in self._windows(len(ids))]
        done, report = 0, self.report(what)
        for batch in self.batches([end - begin for _, begin, end, _ in windows]):
            chosen = [windows[w] for w in batch]
            losses = self._losses([sequences[n][begin:end] for n, begin, end, _ in chosen], [new for *_, new in chosen])
            for (number, _, end, new), of_window in zip(chosen, losses, strict=True):
                yield number, slice(end - 1 - new, end - 1), of_window
            done += len(batch)
            report(done, len(windows))

    def audited_sides(self) -> tuple[Sequence[str], Sequence[str]]:
        """Members and others of the audit. Raises NotMeasured where there are none."""
        if not self.audited.members:
            raise NotMeasured("no texts to tell apart: --members and --others name them, or audit.members draws them")
        return self.audited.members, self.audited.others

    @cached_property
    def audited_log_probs(self) -> list[np.ndarray]:
        """Of each audited member, then of each other text: (L - 1,) log-probabilities of all its tokens but the start.

        One longer than the context is read through windows, see `likelihoods`: were its beginning cut off, models with
        other tokenizers would be asked about other parts of it.
        """
        encoded = [self.encode(text)[0] for text in self.audited.texts]
        found = [np.zeros(len(ids) - 1) for ids in encoded]
        for number, places, losses in self._losses_through_windows(encoded, "audit"):
            found[number][places] = -losses.numpy()
        return found

    @cached_property
    def audited_losses(self) -> np.ndarray:
        """(N,) negative log-likelihood of each of these texts in nats a byte, which needs no common tokenizer."""
        totals = np.array([of_text.sum() for of_text in self.audited_log_probs])
        return -totals / np.array([len(text.encode()) for text in self.audited.texts])

    def _windows(self, length: int) -> Iterator[tuple[int, int, int]]:
        """(begin, end, tokens counted) over a sequence that begins with the start token."""
        end = min(self.context or length, length)
        if end > 1:
            yield 0, end, end - 1
        while end < length:
            assert self.context is not None and self.stride is not None  # or else the first window were the last
            previous, end = end, min(end + self.stride, length)
            yield end - self.context, end, end - previous


@dataclass
class PartOfEvaluation(Evaluation):
    """The same model on some of the prompts of a whole evaluation, or on other documents.

    whole: What was found there once for all, listed words and sampled texts, is not looked for again.
    places: Which of the whole's prompts these are.
    """

    whole: Evaluation = field(kw_only=True)
    places: Sequence[int] = ()

    @cached_property
    def roles(self) -> TokenRoles:
        """Those of the whole: the tokenizer is the same."""
        return self.whole.roles

    @cached_property
    def continuations(self) -> list[list[str]]:
        """The texts that were sampled behind these prompts in the whole."""
        return [self.whole.continuations[place] for place in self.places]


def cards(metric: ModuleType) -> tuple[Card, ...]:
    """The card of each score of a metric."""
    return metric.CARDS if hasattr(metric, "CARDS") else (metric.CARD,)


class ModelMetric(evaluate.Measurement):
    """Base of the metrics' classes for the `evaluate` library; `cards` and `measure` are those of a subclass's file,
    unless it sets or inherits others.

    evaluate takes the first subclass of its own that it finds in a file: a metric's file must refer to this class
    through its module, not import its name.
    """

    cards: ClassVar[tuple[Card, ...]]
    measure: ClassVar[Callable[[Evaluation], Measurement | Mapping[str, Measurement | None]]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        metric = sys.modules[cls.__module__]
        if not hasattr(cls, "cards"):
            cls.cards = cards(metric)
        if not hasattr(cls, "measure"):
            cls.measure = staticmethod(metric.measure)

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description="\n\n".join(
                f"{card.name}: {card.meaning}\nFormula: {card.formula}\nIdeal: {card.ideal}; {card.direction}.\n"
                f"Limits: {card.limits}"
                for card in self.cards
            ),
            citation="; ".join(dict.fromkeys(card.source for card in self.cards)),
            inputs_description=_INPUTS,
            features=Features(),
        )

    def compute(self, **inputs: Any) -> dict[str, Any]:
        """Measure a model: see the arguments of `evaluation_from`.

        Returns the fields of a `Score`, or for a metric of several scores those of each, by its name: the same as
        `distill.score` of this model alone.

        Raises:
            NotMeasured: what it needs is missing.
            UserError: see `evaluation_from`.
        """
        evaluation = evaluation_from(**inputs)
        outcome = type(self).measure(evaluation)

        def told(card: Card, measurement: Measurement) -> dict[str, Any]:
            found = resampled(measurement, resamples=evaluation.settings.bootstrap, seed=RESAMPLING_SEED)
            return score_of(card, reported(found)).to_dict()

        if isinstance(outcome, Measurement):
            (card,) = self.cards
            return told(card, outcome)
        return {
            card.name: told(card, measurement)
            for card in self.cards
            if (measurement := outcome.get(card.name)) is not None
        }


_INPUTS = """
Args:
    model: A causal language model of transformers, or the folder or hub id of one.
    tokenizer: Its fast tokenizer; not needed with a folder or hub id.
    wordlist: Name of a bundled word list, path of a TSV, or a WordList. Default: english_gender.
    documents: Held-out texts, for metrics on texts.
    prompts: Prompts, or where they come from (see distill.text.prompts.load_prompts). Default: occupations.
    seed: Seed of sampling, and of the draw of `max_prompts`.
    **settings: Any setting of distill.recipe.ScoreConfig but quantize: samples, max_prompts, bootstrap ...
"""


def evaluation_from(**inputs: Any) -> Evaluation:
    """An `Evaluation` from what a user of `evaluate` passes to `compute`.

    Raises:
        UserError: an unknown argument, a setting that nothing could be measured with, or a model, word list, prompt
            file or document that cannot be used.
    """
    known = {"model", "tokenizer", "wordlist", "documents", "prompts", "seed"}
    setting_names = {f.name for f in fields(ScoreConfig)} - {"metrics", "prompts", "quantize", *WHILE_TRAINING}
    if "quantize" in inputs:
        raise UserError("quantize sets a copy beside a model, but compute() measures one; ask distill.score for both")
    for name in inputs:
        if name not in known | setting_names:
            raise UserError(f"unknown argument '{name}'; {suggestion(name, sorted(known | setting_names))}")
    settings: ScoreConfig = typed(ScoreConfig, {n: inputs[n] for n in setting_names if n in inputs}, "compute()")
    check_scores(settings, prefix="")
    check_seed(seed := inputs.get("seed", 0))
    documents = given_documents(inputs.get("documents", ()), "documents")
    model, tokenizer = inputs.get("model"), inputs.get("tokenizer")
    if model is None:
        raise UserError("compute() needs model=..., a model or the folder of one")
    if isinstance(model, str | Path):
        tokenizer = tokenizer or load_tokenizer(str(model))
        model = load_model(str(model))
    if tokenizer is None:
        raise UserError("compute() needs tokenizer=... when the model is given as an object")
    wordlist = inputs.get("wordlist", "english_gender")
    wordlist = wordlist if isinstance(wordlist, WordList) else load_wordlist(wordlist)
    swapper = Swapper(wordlist)
    prompts = given_prompts(inputs.get("prompts", "occupations"))
    prompts = prompts if settings.listed_prompts else without_listed_words(prompts, swapper)[0]
    prompts = limit_prompts(prompts, settings.max_prompts, seed)
    audited = read_audited(settings)
    named = {name: getattr(settings, name) for name in ("reference", "control")} if audited.texts else {}
    compared = {name: (load_model(str(path)), load_tokenizer(str(path))) for name, path in named.items() if path}
    common = least(*(scored_context(one.config) for one, _ in [(model, tokenizer), *compared.values()]))
    alike = partial(Evaluation, wordlist=wordlist, settings=settings, swapper=swapper, common=common, audited=audited)
    losses: dict[str, Any] = {
        name: (lambda opened=opened: alike(*opened).audited_losses) for name, opened in compared.items()
    }
    return Evaluation(
        model, tokenizer, wordlist, documents, prompts, settings, seed,
        swapper, common=common, audited=audited, **losses,
    )  # fmt: skip


def given_documents(texts: str | Iterable[str], name: str) -> list[str]:
    """Held-out texts as a user gives them; one text alone is a list of one.

    Args:
        texts: The texts.
        name: What the argument is called, for messages.

    Raises:
        UserError: they are no list, or one of them is no text.
    """
    if not isinstance(texts, Iterable):
        raise UserError(f"{name} is {texts!r:.100}, but must be a list of texts")
    documents = [texts] if isinstance(texts, str) else list(texts)
    for number, text in enumerate(documents):
        if not isinstance(text, str):
            raise UserError(f"{name}[{number}] is {text!r:.100}, but must be a text; leave out what is missing")
    return documents


def given_prompts(prompts: str | Path | Iterable[Prompt | str]) -> list[Prompt]:
    """Prompts from where `load_prompts` finds them, or as they are given; a plain text is a subject of its own.

    Raises:
        UserError: see `load_prompts`.
    """
    if isinstance(prompts, str | Path):
        return load_prompts(prompts)
    return [prompt if isinstance(prompt, Prompt) else Prompt(prompt, "all", prompt) for prompt in prompts]
