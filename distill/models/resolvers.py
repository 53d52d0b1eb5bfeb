"""Two more ways to tell the role of her and his, behind the protocol of `roles.Resolver`. Each needs a model.

    load_resolver("log_linear")      the default: the learned weights of `roles.PronounModel`
    load_resolver("teacher", ...)    the language model at hand compares both readings: "saw him there", "saw his there"
    load_resolver("spacy")           the tag, or the dependency, that a pipeline of spaCy gives the word

Where neither has anything to say (other roles, other words), `roles.PronounModel` decides.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distill.base.errors import UserError, first_line, suggestion
from distill.base.long_input import encodable
from distill.models.architecture import evaluating, hidden_states, model_hash, own_context, project, special_tokens
from distill.models.loading import load_teacher
from distill.models.wide_decoding import pass_factor
from distill.recipe import TeacherConfig
from distill.text.roles import Ambiguity, PronounModel, Resolver, role_by_rule, with_coordinated

_RULE_VERSION = "2"  # raise it whenever the same model may give other roles
RESOLVERS = ("log_linear", "teacher", "spacy")
DEFAULT_PIPELINE = "en_core_web_sm"


def load_resolver(spec: str, teacher: Any = None, tokenizer: Any = None, trust_remote_code: bool = False) -> Resolver:
    """The resolver of a name.

    Args:
        spec: `log_linear`; `teacher` (the model that is given) or `teacher:PATH` (a folder, a hub id or `demo`);
            `spacy` or `spacy:PIPELINE`.
        teacher: A causal language model of transformers, for `teacher`.
        tokenizer: Its tokenizer.
        trust_remote_code: Run code that comes with the model at PATH. Only for sources you trust.

    Raises:
        UserError: the name is unknown, there is no teacher, the model or the pipeline cannot be loaded, or spaCy is not
            installed.
    """
    name, colon, argument = spec.partition(":")
    if name not in RESOLVERS:
        raise UserError(f"resolver '{spec}' is unknown; {suggestion(name, RESOLVERS)}")
    if colon and (name == "log_linear" or not argument):
        raise UserError(f"resolver '{spec}': give log_linear, teacher, teacher:PATH, spacy or spacy:PIPELINE")
    if name == "log_linear":
        return PronounModel()
    if name == "spacy":
        return SpacyResolver(argument or DEFAULT_PIPELINE)
    if argument:
        teacher, tokenizer = load_teacher(TeacherConfig(path=argument, trust_remote_code=trust_remote_code))
    if teacher is None or tokenizer is None:
        raise UserError("resolver 'teacher' needs a teacher, and there is none; name a model of its own: teacher:PATH")
    return LanguageModelResolver(teacher, tokenizer)


def _index(role: str, roles: tuple[str, ...]) -> int:
    """Where the role stands among those on offer; "" stands for the one that is not named."""
    return next((roles.index(choice) for choice in (role, "") if choice in roles), 0)


# --------------------------------------------------------------------------------------------------- language model

# For each word the role that a determiner is told from, and what may stand for it as either. Not her and hers for his:
# hers is so rare that small models never expect it.
_READINGS = {"her": ("object", ("his", "him")), "his": ("pronoun", ("my", "mine"))}
# Chosen on a fifth of the training files of wordlists/train_pronoun_roles.py, with log-linear weights learned from the
# others. Half as many words before, or twice as many, and two more or less after are no better; nor are my and me,
# their and them, or several such pairs added up, in the place of his and him.
_WORDS_BEFORE, _WORDS_AFTER = 24, 4
# There, some nine in ten scores of the log-linear model were farther from 0 than this, with hardly an error among them.
_CERTAIN = 100
_NATS_PER_SCORE = 0.04  # what the log-linear model's score adds to the language model's evidence
_REACH_BEFORE, _REACH_AFTER = 240, 60  # the characters searched for these words
_WORD = re.compile(r"\S+")
_NEXT_WORDS = re.compile(rf"(?:\s*\S+){{0,{_WORDS_AFTER}}}")


class _Row(NamedTuple):
    """Token ids of a text behind the start token, and the place of the first one that is scored."""

    ids: list[int]
    first: int


class LanguageModelResolver:
    """Roles of English her and his: the language model finds one of two readings more likely.

    her is read as his and as him, his as my and as mine: "She gave his book away", "She gave him book away". The score
    of a reading is the log-probability of its pronoun and of the words after it, given the words before.

    The model is asked where the log-linear model is not certain, whose evidence is then added: the two err in different
    places. A possessive stands alone where him could be, so this evidence counts for his as well; where the rules of
    `roles` say that it stands alone, or tell the role by a set or a pair of pronouns (she/her/hers), that holds.

    Every window is scored by itself, so a role does not depend on the batch, nor on the other texts in it; the rounding
    of a matrix product can decide only where both readings are equally likely. The model is read in eval mode and given
    back in the mode it came in.

    It cannot be pickled: a model is not sent to worker processes.

    model: a causal language model of transformers with a linear output head (see `distill.models.architecture.head`).
    tokenizer: its tokenizer.
    batch_size: readings scored side by side on a CPU; a GPU scores `pass_factor` times as many.
    alone: the language model decides everywhere and without the log-linear model; much slower.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 32, alone: bool = False) -> None:
        self.model, self.tokenizer, self.batch_size, self.alone = model, tokenizer, batch_size, alone
        self._start = special_tokens(tokenizer)[0]
        self._context = own_context(model.config)
        self._log_linear = PronounModel()

    def __reduce__(self) -> tuple:
        raise TypeError("a LanguageModelResolver is not pickled: it holds a language model; swap in one process")

    @cached_property
    def version(self) -> str:
        """Hash of the rules, of the model's weights and of its tokenizer. Read once: the weights must not change."""
        tokens = self.tokenizer.backend_tokenizer.to_str()
        own = f"{_RULE_VERSION} {self.alone} {self._start}"
        parts = (own, model_hash(self.model, None), tokens, self._log_linear.version)
        return f"teacher {hashlib.sha256(' '.join(parts).encode('utf-8', 'surrogatepass')).hexdigest()}"

    def __call__(self, text: str, ambiguities: Sequence[Ambiguity]) -> list[int]:
        """For every ambiguity the index of the chosen role in its `roles`."""
        return self.resolve([(text, ambiguities)])[0]

    def resolve(self, texts: Sequence[tuple[str, Sequence[Ambiguity]]]) -> list[list[int]]:
        """Several texts at once, in common batches: faster where each of them is short."""
        chosen = [self._log_linear(text, ambiguities) for text, ambiguities in texts]
        asked, pairs = [], []
        for number, (text, ambiguities) in enumerate(texts):
            for place, (start, end, roles) in enumerate(ambiguities):
                role, readings = _READINGS.get(text[start:end].lower(), ("", ("", "")))
                if not role or role not in roles:
                    continue
                around = with_coordinated(text, start, end)
                score = 0 if self.alone else self._log_linear.object_score(text, *around)
                by_rule = role_by_rule(text, start, end) or (
                    role == "pronoun" and chosen[number][place] == _index(role, roles)
                )
                if self.alone or (abs(score) < _CERTAIN and not by_rule):
                    asked.append((number, place, role, roles, _NATS_PER_SCORE * score))
                    pairs.append(_read_as(text, text[start:end], *around, readings))
        for (number, place, role, roles, evidence), ratio in zip(asked, self.log_ratios(pairs), strict=True):
            chosen[number][place] = _index(role if ratio + evidence > 0 else "determiner", roles)
        return chosen

    def log_ratios(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Log-likelihood of the second text of each pair minus that of the first, in nats."""
        if not pairs:
            return []
        texts = [encodable(text) for pair in pairs for text in pair]
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        rows = []
        for pair in zip(encoded[::2], encoded[1::2], strict=True):
            shared = _shared_length(*pair)
            # What lies too far back for the model's context is cut off from both alike.
            cut = max(0, *(len(ids) - (self._context or len(ids)) for ids in pair))
            rows += [_Row([self._start, *ids[cut:]], max(0, shared - cut) + 1) for ids in pair]
        scores = self._log_likelihoods(rows)
        return [second - first for first, second in zip(scores[::2], scores[1::2], strict=True)]

    @torch.inference_mode()
    def _log_likelihoods(self, rows: Sequence[_Row]) -> list[float]:
        """For each row the log-probability of its tokens from the first that is scored, in nats."""
        scores = [0.0] * len(rows)
        # Neighbours of one length need no padding, and padding costs time.
        order = sorted(range(len(rows)), key=lambda number: len(rows[number].ids))
        with evaluating(self.model):
            size = self.batch_size * pass_factor(self.model.device)
            for begin in range(0, len(order), size):
                numbers = order[begin : begin + size]
                batch = self._batch_log_likelihoods([rows[number] for number in numbers])
                for number, score in zip(numbers, batch.tolist(), strict=True):
                    scores[number] = score
        return scores

    def _batch_log_likelihoods(self, rows: Sequence[_Row]) -> Tensor:
        """(B,) in nats, float64. The head is applied to the scored positions alone."""
        device = self.model.device
        width = max(len(row.ids) for row in rows)
        # Padded on the right, where a causal model's other positions do not see it.
        ids = torch.tensor([row.ids + [self._start] * (width - len(row.ids)) for row in rows], device=device)
        # A token is predicted one position before its own, and the last one predicts nothing.
        positions = torch.arange(width - 1, device=device).expand(len(rows), width - 1)
        hidden = hidden_states(self.model, ids[:, :-1], positions)
        scored = [(number, place) for number, row in enumerate(rows) for place in range(row.first, len(row.ids))]
        number, place = torch.tensor(scored, dtype=torch.long, device=device).reshape(-1, 2).T
        log_probabilities = project(self.model, hidden[number, place - 1]).float().log_softmax(dim=-1)
        of_tokens = log_probabilities.gather(1, ids[number, place][:, None])[:, 0].cpu().double()
        return torch.zeros(len(rows), dtype=torch.float64).index_add_(0, number.cpu(), of_tokens)


def _read_as(text: str, written: str, start: int, end: int, readings: tuple[str, str]) -> tuple[str, str]:
    """The words around [start, end), with one and with the other pronoun between them, in the written letter case."""
    words = [word.start() for word in _WORD.finditer(text, max(0, start - _REACH_BEFORE), start)]
    before = text[words[-_WORDS_BEFORE:][0] : start] if words else ""
    next_words = _NEXT_WORDS.match(text, end, end + _REACH_AFTER)
    assert next_words is not None  # it matches no words, too
    after = next_words[0]
    write = str.lower if written.islower() else str.upper if written.isupper() else str.capitalize
    first, second = map(write, readings)
    return before + first + after, before + second + after


def _shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many items two sequences have in common at their beginning."""
    differ = (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    return next(differ, min(len(first), len(second)))


# ------------------------------------------------------------------------------------------------------------ spaCy

_PIECE = 20_000  # characters read at once: a parser needs memory in proportion
_BREAKS = ("\n\n", "\n", ". ", " ")  # where a long text is cut, the best first
_ROLE_OF_TAG = {"PRP$": "determiner", "PRP": "object"}  # of the Penn Treebank
_NOT_NEEDED = ("ner", "lemmatizer", "textcat", "textcat_multilabel", "entity_linker", "entity_ruler", "spancat")


class SpacyResolver:
    """Roles of English her and his by a pipeline of spaCy.

    her: by its tag, PRP$ (determiner) or PRP (object); by its dependency where the tag is neither.
    his: by its dependency, poss (determiner) or another (pronoun); without a parser by the rules of `roles`, because
        tags do not tell these two apart.
    Both by these rules in a set or a pair of pronouns that tells the role (she/her/hers, him or her).

    A text is read in pieces of at most 20,000 characters that end at a paragraph, line, sentence or word; pieces that
    hold no ambiguous word are not read.

    pipeline: the name or path of an installed pipeline, or one that is loaded.

    Raises:
        UserError: spaCy or the pipeline is not installed, or the pipeline has neither a tagger nor a parser.
    """

    def __init__(self, pipeline: Any = DEFAULT_PIPELINE) -> None:
        self._pipeline = pipeline
        self._nlp = _load_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
        self._has_parser = "parser" in self._nlp.pipe_names
        if not self._has_parser and "tagger" not in self._nlp.pipe_names:
            raise UserError(
                f"spaCy pipeline '{self._nlp.meta['name']}' has neither a tagger nor a parser, so it does not tell the "
                f"roles of her apart; take another, such as {DEFAULT_PIPELINE}"
            )
        self._log_linear = PronounModel()

    def __reduce__(self) -> tuple:
        return SpacyResolver, (self._pipeline,)

    @cached_property
    def version(self) -> str:
        """The pipeline's name and version, and a hash of the rules and of the pipeline but for its vectors."""
        meta, own = self._nlp.meta, self._nlp.to_bytes(exclude=["vocab"])
        content = " ".join((_RULE_VERSION, metadata.version("spacy"), self._log_linear.version)).encode() + own
        return f"spacy {meta['lang']}_{meta['name']} {meta['version']} {hashlib.sha256(content).hexdigest()}"

    def __call__(self, text: str, ambiguities: Sequence[Ambiguity]) -> list[int]:
        """For every ambiguity the index of the chosen role in its `roles`."""
        chosen = self._log_linear(text, ambiguities)
        text = encodable(text)
        begins = list(_piece_begins(text, min(_PIECE, self._nlp.max_length)))
        held: dict[int, list[tuple[int, str]]] = {}
        for number, (start, end, roles) in enumerate(ambiguities):
            role, _ = _READINGS.get(text[start:end].lower(), ("", ("", "")))
            if role and role in roles and not role_by_rule(text, start, end):
                held.setdefault(bisect_right(begins, start) - 1, []).append((number, role))
        ends = [*begins[1:], len(text)]
        documents = self._nlp.pipe(text[begins[piece] : ends[piece]] for piece in held)
        for (piece, words), document in zip(held.items(), documents, strict=True):
            begin = begins[piece]
            for number, role in words:
                start, end, roles = ambiguities[number]
                span = document.char_span(start - begin, end - begin, alignment_mode="expand")
                # A cut through a text without white space may leave half a word, and no span.
                if span is not None and (found := self._role(span[0], role)):
                    chosen[number] = _index(found, roles)
        return chosen

    def _role(self, token: Any, role: str) -> str | None:
        """Determiner or the other role of her (object) or his (pronoun); None where the pipeline does not tell."""
        if role == "object" and token.tag_ in _ROLE_OF_TAG:
            return _ROLE_OF_TAG[token.tag_]
        if not self._has_parser:
            return None
        while token.dep_ == "conj" and token.head is not token:  # "her and his book": his hangs on her
            token = token.head
        return "determiner" if token.dep_.endswith("poss") else role  # poss; nmod:poss in Universal Dependencies


def _piece_begins(text: str, limit: int) -> Iterator[int]:
    """Where the pieces of a text begin, of at most `limit` characters each."""
    begin = 0
    while len(text) - begin > limit:
        yield begin
        places = ((text.rfind(mark, begin + 1, begin + limit), mark) for mark in _BREAKS)
        begin = next((place + len(mark) for place, mark in places if place > 0), begin + limit)
    yield begin


def _load_pipeline(name: str) -> Any:
    try:
        import spacy  # only here: an extra
    except ImportError:
        raise UserError(f"resolver 'spacy:{name}' needs spaCy; pip install 'distill[spacy]'") from None
    try:
        return spacy.load(name, exclude=_NOT_NEEDED)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"spaCy pipeline '{name}' cannot be loaded: {first_line(error)}; "
            f"python -m spacy download {name}, or give a folder"
        ) from None
