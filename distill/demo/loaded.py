"""Models that several people ask at once: each is loaded once, and one short question is answered after the other.

They share the cores, or the GPU, so they share one lock (`Turns`), which whoever asks takes: for all models where each
answers at once, for a batch of a few texts of one model where they write. Who wants more of it asks again, and stands
behind those who came in between.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from distill.base.console import say
from distill.base.errors import UserError
from distill.demo.sources import Shown, Source
from distill.metrics import Evaluation
from distill.models.architecture import default_device, own_context, tokenizer_hash
from distill.models.generation import generate
from distill.models.loading import load_frozen
from distill.models.resolvers import load_resolver
from distill.models.two_view import TwoViewTeacher
from distill.objective.logit_ops import mix
from distill.recipe import ScoreConfig, TeacherConfig
from distill.scoring.examples import compared_tokens
from distill.text.counterfactual import Swapper
from distill.text.role_map import TokenRoles
from distill.text.wordlist import load_wordlist

_TARGETS_KEPT = 64  # prompts whose target is kept for the slider


class Turns:
    """A lock whose waiters go in the order in which they came: a plain one may go back to who has just left it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold it, as soon as all who came before have had it."""
        turn = threading.Event()
        with self._guard:
            if self._taken:
                self._waiting.append(turn)
            else:
                self._taken = True
                turn.set()
        turn.wait()
        try:
            yield
        finally:
            with self._guard:
                if self._waiting:
                    self._waiting.popleft().set()
                else:
                    self._taken = False


@dataclass
class Model:
    """A model, its tokenizer, and what its listed words are to it.

    Args:
        source: What it is on the page.
        evaluation: As metrics are given it, with the model, the word list and the roles of tokens.
    """

    source: Source
    evaluation: Evaluation

    def log_probabilities(self, prompt: str) -> Tensor:
        """(V,) float64 log-probabilities of the token right after a prompt, as the next-word disparity reads them.

        Raises:
            UserError: the prompt is longer than what the model reads at once.
        """
        ids, _ = self.evaluation.encode(self.evaluation.asked(prompt))
        limit = own_context(self.evaluation.model.config)
        if limit is not None and len(ids) > limit:
            raise UserError(f"the prompt has {len(ids)} tokens, but the model reads {limit} at once; shorten it")
        states = self.evaluation.states_at([ids], [[len(ids) - 1]])
        return self.evaluation.logits(states)[0].double().log_softmax(dim=-1).cpu()

    def texts(self, prompt: str, samples: int, seed: int, decoding: Mapping[str, Any]) -> list[str]:
        """A few continuations of a prompt; models that are asked with the same seed draw the same random numbers.

        Raises:
            UserError: prompt and text are longer than what the model reads at once; else see `generate`.
        """
        given = self.evaluation.asked(prompt)
        limit, number = own_context(self.evaluation.model.config), len(self.evaluation.encode(given)[0])
        if limit is not None and number + decoding["max_new_tokens"] > limit:
            raise UserError(
                f"the prompt has {number} tokens, which with {decoding['max_new_tokens']} more exceed the model's "
                f"context of {limit} tokens; shorten the prompt or the texts"
            )
        of_model = self.evaluation.model, self.evaluation.tokenizer
        (texts,) = generate(*of_model, [given], samples=samples, seed=seed, **decoding)
        return texts

    @cached_property
    def compared(self) -> dict[str, Tensor]:
        """The words that are set against each other by name (he and she), with their tokens."""
        return compared_tokens(self.evaluation)


class Target:
    """What students are trained on: the two-view teacher, with a strength that can be turned.

    The two distributions that a strength mixes are worked out once a prompt, so that the slider only mixes.

    Args:
        teacher: The plain teacher, which is strength 0.
        whole: The two-view teacher of strength 1.
    """

    def __init__(self, teacher: Model, whole: Model) -> None:
        self.teacher, self.whole = teacher, whole
        self._kept: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()

    def log_probabilities(self, prompt: str, strength: float) -> Tensor:
        """(V,) float64 log-probabilities of the target right after a prompt.

        Args:
            prompt: The prompt.
            strength: From 0, the plain teacher, to 1, the operation's result.

        Raises:
            UserError: the prompt is longer than what the teacher reads at once.
        """
        if prompt not in self._kept:
            self._kept[prompt] = self.teacher.log_probabilities(prompt), self.whole.log_probabilities(prompt)
            if len(self._kept) > _TARGETS_KEPT:
                self._kept.popitem(last=False)
        own, target = self._kept[prompt]
        width = min(len(own), len(target))  # the target has no rows behind the vocabulary
        return mix(own[:width], target[:width], strength)


@dataclass(frozen=True)
class Loaded:
    """All that answers: the models in the order of their columns, the target, and the word list's swapper.

    Models and target may be asked by whoever has the turn; fast tokenizers serve one thread at a time, too.
    """

    shown: Shown
    models: Sequence[Model]
    target: Target
    swapper: Swapper
    turns: Turns = field(default_factory=Turns)


def load(shown: Shown) -> Loaded:
    """Load every model once.

    Raises:
        UserError: a model, the word list or the resolver cannot be had.
    """
    wordlist = load_wordlist(shown.wordlist)
    found = {}
    for source in shown.sources:
        say(f"loading {source.title}: {source.model.path}")
        found[source] = _open(source.model)
    model, tokenizer = found[shown.teacher]
    resolver = load_resolver(shown.resolver, model, tokenizer, shown.teacher.model.trust_remote_code)
    swapper = Swapper(wordlist, resolver, shown.skip)  # type: ignore[arg-type]
    models = []
    roles: dict[tuple[str, int], TokenRoles] = {}  # models often share a tokenizer
    for source, (model, tokenizer) in found.items():
        evaluation = Evaluation(model, tokenizer, wordlist, settings=ScoreConfig(chat=shown.chat), swapper=swapper)
        key = tokenizer_hash(tokenizer), evaluation.vocab_size
        if key in roles:
            evaluation.roles = roles[key]
        roles[key] = evaluation.roles
        models.append(Model(source, evaluation))
    teacher = models[shown.sources.index(shown.teacher)]
    whole = replace(teacher, evaluation=_two_views(teacher.evaluation, shown))
    return Loaded(shown, models, Target(teacher, whole), swapper)


def _open(config: TeacherConfig) -> tuple[Any, Any]:
    """Model and tokenizer, as the recipe of a teacher would load them."""
    model, tokenizer = load_frozen(config)
    return (model if config.quantization else model.to(default_device())), tokenizer


def _two_views(teacher: Evaluation, shown: Shown) -> Evaluation:
    """The teacher's evaluation with the whole target in the teacher's place."""
    target = replace(shown.target, strength=1.0)
    model = TwoViewTeacher(teacher.model, teacher.tokenizer, teacher.swapper, target, teacher.role_maps)
    evaluation = Evaluation(
        model, teacher.tokenizer, teacher.wordlist, settings=teacher.settings, swapper=teacher.swapper
    )
    evaluation.roles = teacher.roles
    return evaluation
