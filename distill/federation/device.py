"""What server and clients over machines have alike, and what a client's worker answers (see `worker`).

Here is no Flower: a request says all that there is to know, and an answer is figures and bytes.
"""

import gc
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from transformers import set_seed

from distill.base.console import say
from distill.base.errors import UserError
from distill.base.files import write_json
from distill.data.blocks import BlockDataset
from distill.data.corpus import open_corpus, with_template
from distill.federation.client_scores import scorer
from distill.federation.clients import ClientText, client_blocks, many_updates, set_weights, update
from distill.federation.rounds import period_of
from distill.federation.worker import ToldError, serve
from distill.models.architecture import lent_to_gpu, model_hash, tokenizer_hash, vocab_size
from distill.models.loading import load_teacher
from distill.models.probe import any_mixes
from distill.models.resolvers import load_resolver
from distill.models.student import make_student, student_tokenizer
from distill.objective.logit_ops import build_role_maps
from distill.recipe import Recipe
from distill.recipe_check import parse_recipe
from distill.scoring.measure import check_metrics
from distill.text.counterfactual import Swapper
from distill.text.role_map import token_roles
from distill.text.wordlist import load_wordlist
from distill.training.run import Models, prepare

#: Keys of a recipe in which server and clients must agree; where the text lies is each client's own business.
SHARED = (
    "seed",
    "wordlist",
    "skip",
    "resolver",
    "on_nonfinite",
    "block_length",
    "teacher",
    "student",
    "target",
    "loss",
    "trainer",
    "privacy",
    "federation",
)

_ANSWERED = "answered.json"
_NOT_FINITE = "met a loss, gradient or weight that is not finite; its own log says where"
_TIMES = ("seconds", "processor_seconds")  # of `Totals`
_OF_UPDATE = re.compile(r"\d+-[0-9a-f]{16}")

# ----------------------------------------------------------------------------------------------------------- both sides


def read_recipe(path: str) -> Recipe:
    """A recipe with clients.

    Raises:
        UserError: it has none, names a metric that there is none of, or asks for an audit.
    """
    recipe = parse_recipe(["--config", path])
    if not recipe.federation.clients:
        raise UserError(f"{path}: federation.clients is 0, so there is nothing to federate; say how many there are")
    if recipe.audit.members or recipe.audit.canaries:
        raise UserError(
            f"{path}: audit draws from the text of all clients, which nobody holds over machines; leave it out, or run "
            "the recipe in one process"
        )
    check_metrics(recipe)
    return recipe


@dataclass(frozen=True)
class Loaded:
    """What a run of the same recipe in one process has.

    Args:
        models: Teacher and untrained student, prepared.
        swapper: Of the word list.
        teacher: `model_hash` of the teacher that the recipe names; "" for none.
        student: `model_hash` of the checkpoint that `student.path` names, as it is before training; "" for none.
        tokenizer: `tokenizer_hash` of the one that both read.
    """

    models: Models
    swapper: Swapper
    teacher: str
    student: str = ""
    tokenizer: str = ""


def agreed(recipe: Recipe, loaded: Loaded) -> dict[str, str]:
    """Key of a recipe -> a hash of its value, of all in which server and clients must agree.

    A word list, teacher, student's checkpoint and tokenizer are what is in them, not what they are called: on another
    machine they lie elsewhere.
    """
    values = {key: value for key, value in recipe.to_dict().items() if key in SHARED}
    values["wordlist"] = loaded.swapper.wordlist.sha256
    values["corpus.mask"] = recipe.corpus.mask
    if recipe.federation.client_metrics:  # what each client measures is set beside what the others do
        values |= {f"scores.{key}": getattr(recipe.scores, key) for key in ("context", "stride")}
    values["teacher"] = {**values["teacher"], "path": loaded.teacher}
    values["student"] = {**values["student"], "path": loaded.student, "tokenizer": loaded.tokenizer}
    told = {key: json.dumps(value, sort_keys=True) for key, value in values.items()}
    return {key: hashlib.sha256(value.encode()).hexdigest()[:16] for key, value in told.items()}


def load_models(recipe: Recipe, folder: Path) -> Loaded:
    """Load what a recipe names; `folder` is that of the training's checkpoints."""
    teacher, tokenizer = (
        load_teacher(recipe.teacher) if recipe.teacher.path else (None, student_tokenizer(recipe.student))
    )
    resolver = load_resolver(recipe.resolver, teacher, tokenizer, recipe.trusts_code)
    swapper = Swapper(load_wordlist(recipe.wordlist), resolver, recipe.skip)
    set_seed(recipe.seed)
    student = make_student(recipe.student, teacher, tokenizer, recipe.teacher.path)
    roles = token_roles(swapper.wordlist, tokenizer, vocab_size(tokenizer, student, teacher))
    role_maps = build_role_maps(roles.edges, roles.vocab_size)
    hashes = {
        "teacher": model_hash(teacher, tokenizer) if teacher is not None else "",
        "student": model_hash(student, None) if recipe.student.path else "",  # before `prepare` adds to it
        "tokenizer": tokenizer_hash(tokenizer),
    }
    return Loaded(prepare(recipe, student, teacher, tokenizer, role_maps, folder), swapper, **hashes)


# ------------------------------------------------------------------------------------------------------------ a client


@dataclass(frozen=True)
class Client:
    """A client as it is between two messages of a run.

    Args:
        recipe: Its copy of the recipe.
        loaded: What the recipe names.
        text: Its blocks.
        number: Which one it is.
        folder: Of its blocks and checkpoints.
    """

    recipe: Recipe
    loaded: Loaded
    text: ClientText
    number: int
    folder: Path


def open_client(request: Mapping[str, Any]) -> Client:
    """A client with all that it needs for a run.

    Args:
        request: recipe, its file; client, its number; folder; own, whether the text of the recipe is the client's own:
            otherwise it takes its share of a text that is dealt to all.

    Raises:
        UserError: see `read_recipe`; what is read may be quoted.
        ToldError: there is no such number.
    """
    recipe, place, number = read_recipe(request["recipe"]), Path(request["folder"]), request["client"]
    if number not in range(there := recipe.federation.clients):
        raise ToldError(f"--node-config says client={number}, but federation.clients is {there}: give 0 to {there - 1}")
    loaded = load_models(recipe, place / "checkpoints")
    models, swapper = loaded.models, loaded.swapper
    teacher, tokenizer = models.teacher, models.tokenizer
    corpus = open_corpus(recipe.corpus, 2 * recipe.seed, place / "cache", teacher, tokenizer, loaded.teacher)
    corpus = with_template(corpus, tokenizer, recipe.corpus.mask)
    own = request["own"]
    one_document = recipe.is_private or any_mixes(recipe.block_length, models.student, teacher)
    given = swapper if recipe.needs_counterfactuals else None
    with lent_to_gpu(given and given.model):
        found, _ = client_blocks(recipe, corpus, tokenizer, given, place / "cache", (), one_document, own)
    return Client(recipe, loaded, found.texts[0 if own else number], number, place)


class Answers:
    """Answers of one client, which is opened when it is first asked in a run, and kept until it is asked in another."""

    def __init__(self) -> None:
        self._of: Mapping[str, Any] = {}
        self._client: Client | None = None
        self._updating = ExitStack()

    def __call__(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """The answer to a request, see `open_client`, `described`, `updated` and `scored`.

        Args:
            request: `round` asks for an update, which counts from 0; `score` for scores; without them the client is
                asked who it is.
            payload: The weights of the round, or of the finished student.
        """
        number, scores = request.pop("round", None), request.pop("score", False)
        if self._client is None or request != self._of:
            self._updating.close()
            self._client = None
            gc.collect()  # its memory is free before the next one's is taken
            self._client, self._of = open_client(request), request
            self._updating.enter_context(many_updates())
        if scores:
            return scored(self._client, payload), b""
        if number is None:
            return described(self._client), b""
        return updated(self._client, number, payload)


def described(client: Client) -> dict[str, Any]:
    """What the server must know before it draws clients: who this is, and how many documents each period has."""
    ours = json.dumps(agreed(client.recipe, client.loaded))
    return {"client": client.number, "documents": list(client.text.usable), "agreed": ours}


def updated(client: Client, number: int, weights: bytes) -> tuple[dict[str, Any], bytes]:
    """A client's update.

    Args:
        client: Whose.
        number: Of the round, counted from 0.
        weights: Of the round, as safetensors.

    Returns:
        What its `Answer` says, and the weights, as safetensors; none where it has none. Nothing quotes the client's
        text, and a private one tells neither losses nor tokens.

    Raises:
        ToldError: there is no such round, of which epsilon would not know; it has no text in it; or its noise is the
            operating system's, and it answered the round before.
    """
    if number not in range(there := client.recipe.federation.rounds):
        raise ToldError(
            f"client {client.number} is asked for round {number + 1}, but federation.rounds is {there}: it answers 1 "
            f"to {there}; start the server with the same recipe"
        )
    blocks = client.text.blocks[period_of(client.recipe.federation, number)]
    if blocks is None:
        raise ToldError(f"client {client.number} has no text in round {number + 1}")
    once = client.recipe.is_private and client.recipe.privacy.secure
    answered = _answered(client.folder) if once else []
    if number in answered:
        raise ToldError(
            f"client {client.number} answered round {number + 1} before, and a second answer, which has other noise, "
            f"tells more of its text than privacy.epsilon says; {client.folder / _ANSWERED} remembers it"
        )
    answer = update(
        client.recipe, client.loaded.models, blocks, load(weights), number=number, client=client.number,
        folder=_own_folder(client, number, blocks, weights), cache=client.folder / "cache",
    )  # fmt: skip
    if once:
        write_json(client.folder / _ANSWERED, [*answered, number])
    if answer.error:  # it quotes the client's text
        say(f"client {client.number}: {answer.error}")
    # Epsilon bounds what the weights tell; the losses and the number of tokens that were drawn would tell more.
    private = client.recipe.is_private
    told = {
        "facts": {"weight": answer.weight, "seconds": answer.seconds, "error": _NOT_FINITE if answer.error else ""},
        "figures": {} if private else answer.figures,
        "totals": {name: value for name, value in answer.totals.items() if name in _TIMES or not private},
        "privacy": answer.privacy,
    }
    return told, b"" if answer.weights is None else save(answer.weights)


def _own_folder(client: Client, number: int, blocks: BlockDataset, weights: bytes) -> Path:
    """Where an update keeps its checkpoints; what others left there is removed.

    Another text, another recipe's run or weights that another server sent are another update, which must not go on from
    where this one stood. The same question, asked again, does.
    """
    told = json.dumps([blocks.key, agreed(client.recipe, client.loaded)], sort_keys=True)
    digest = hashlib.sha256(told.encode())
    digest.update(weights)
    folder = client.folder / "checkpoints"
    own = folder / f"{number}-{digest.hexdigest()[:16]}"
    for path in folder.glob("*"):
        if _OF_UPDATE.fullmatch(path.name) and path != own:
            shutil.rmtree(path)
    return own


def scored(client: Client, weights: bytes) -> dict[str, Any]:
    """What the finished student scores on the client's own text, see `over_clients`.

    Args:
        client: Whose text.
        weights: Of the student, as safetensors.
    """
    models, documents = client.loaded.models, client.text.sample
    set_weights(models.student, load(weights))
    names, swapper = client.recipe.federation.client_metrics, client.loaded.swapper
    values = scorer(client.recipe, models.tokenizer, swapper, names, "federation.client_metrics")
    figures = values(models.student, documents) if documents else {}
    return {"client": client.number, "documents": len(documents), "figures": figures}


def _answered(folder: Path) -> list[int]:
    """The rounds that were answered with noise which no run repeats."""
    path = folder / _ANSWERED
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


if __name__ == "__main__":
    serve(Answers(), sys.argv[1:])
