"""The same rounds over machines, by Flower (extra `federated`): its ServerApp and ClientApp around our own functions.

A client's update is `clients.update`, a round's end is `rounds.finish_round`, and clients are drawn by
`select_clients`: the strategies here carry messages. `app` starts it.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr reads it

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import Strategy
from transformers import set_seed

from distill.base.console import say
from distill.base.errors import UserError
from distill.data.corpus import open_corpus, with_template
from distill.federation.aggregation import Answer
from distill.federation.clients import Clients, client_blocks, get_weights, update
from distill.federation.rounds import State, finish_round, period_of, publish
from distill.federation.selection import select_clients
from distill.models.architecture import model_hash, vocab_size
from distill.models.loading import load_teacher
from distill.models.probe import any_mixes
from distill.models.student import make_student, student_tokenizer
from distill.objective.logit_ops import build_role_maps
from distill.recipe import Recipe
from distill.recipe_check import parse_recipe
from distill.text.counterfactual import Swapper
from distill.text.role_map import token_roles
from distill.text.wordlist import load_wordlist
from distill.training.run import Models, prepare

#: Sections of a recipe in which server and clients must agree; where the text lies is each client's own business.
_SHARED = (
    "seed",
    "wordlist",
    "skip",
    "block_length",
    "teacher",
    "student",
    "target",
    "loss",
    "trainer",
    "privacy",
    "federation",
)
_ARRAYS, _FACTS, _FIGURES, _TOTALS, _PRIVACY = "arrays", "facts", "figures", "totals", "privacy"

client, server = ClientApp(), ServerApp()


def read_recipe(path: str) -> Recipe:
    """A recipe with clients. Raises UserError for one without."""
    recipe = parse_recipe(["--config", path])
    if not recipe.federation.clients:
        raise UserError(f"{path}: federation.clients is 0, so there is nothing to federate; say how many there are")
    return recipe


def agreed(recipe: Recipe) -> str:
    """A hash of all in which server and clients must agree."""
    values = {key: value for key, value in recipe.to_dict().items() if key in _SHARED}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def load_models(recipe: Recipe, folder: Path) -> tuple[Models, Any]:
    """Teacher and untrained student, prepared, and the swapper: what a run of the same recipe in one process has."""
    swapper = Swapper(load_wordlist(recipe.wordlist), skip=recipe.skip)
    teacher, tokenizer = (
        load_teacher(recipe.teacher) if recipe.teacher.path else (None, student_tokenizer(recipe.student))
    )
    roles = token_roles(swapper.wordlist, tokenizer, vocab_size(tokenizer))
    set_seed(recipe.seed)
    student = make_student(recipe.student, teacher, tokenizer, recipe.teacher.path)
    return prepare(recipe, student, teacher, tokenizer, build_role_maps(roles.edges, roles.vocab_size), folder), swapper


# ------------------------------------------------------------------------------------------------------------ client


@cache
def _opened(path: str, folder: str, own: bool) -> tuple[Recipe, Models, Clients]:
    """A client's recipe, models and text, once in a process."""
    recipe = read_recipe(path)
    place = Path(folder)
    models, swapper = load_models(recipe, place / "checkpoints")
    teacher, tokenizer = models.teacher, models.tokenizer
    key = model_hash(teacher, tokenizer) if teacher is not None else ""
    corpus = open_corpus(recipe.corpus, 2 * recipe.seed, place / "cache", teacher, tokenizer, key)
    corpus = with_template(corpus, tokenizer, recipe.corpus.mask)
    dealt = replace(recipe, federation=replace(recipe.federation, clients=1)) if own else recipe
    one_document = recipe.is_private or any_mixes(recipe.block_length, models.student, *([teacher] if teacher else []))
    given = swapper if recipe.needs_counterfactuals else None
    return recipe, models, client_blocks(dealt, corpus, tokenizer, given, place / "cache", (), one_document)[0]


def _of(context: Any) -> tuple[Recipe, Models, Any, int, Path]:
    """Recipe, models, text, number and folder of the client that a SuperNode's --node-config describes.

    recipe: the client's recipe. client: its number. folder: where its blocks go. own: the text of the recipe is the
    client's own; without it, the client takes its share of a text that is dealt to all.
    """
    config = context.node_config
    own, folder = bool(config.get("own", False)), str(config["folder"])
    recipe, models, clients = _opened(str(config["recipe"]), folder, own)
    number = int(config["client"])
    return recipe, models, clients.texts[0 if own else number], number, Path(folder)


@client.query()
def describe(message: Any, context: Any) -> Any:
    """What the server must know before it draws clients: who this is, and how many documents each period has."""
    recipe, _, text, number, _ = _of(context)
    documents = [n if blocks is not None else 0 for n, blocks in zip(text.documents, text.blocks, strict=True)]
    facts = ConfigRecord({"client": number, "documents": documents, "agreed": agreed(recipe)})
    return Message(RecordDict({_FACTS: facts}), reply_to=message)


@client.train()
def train(message: Any, context: Any) -> Any:
    """A client's update."""
    recipe, models, text, number, folder = _of(context)
    round_ = int(message.content[_FACTS]["round"])
    answer = update(
        recipe,
        models,
        text.blocks[period_of(recipe.federation, round_)],
        dict(message.content[_ARRAYS].to_torch_state_dict()),
        number=round_,
        client=number,
        folder=folder / "checkpoints" / str(round_),
        cache=folder / "cache",
    )
    content = RecordDict(
        {_FACTS: ConfigRecord({"tokens": answer.tokens, "seconds": answer.seconds, "error": answer.error})}
    )
    if answer.weights is not None:
        content[_ARRAYS] = ArrayRecord(answer.weights)
        content[_FIGURES] = MetricRecord({k: float(v) for k, v in answer.figures.items()})
        content[_TOTALS] = MetricRecord({k: float(v) for k, v in answer.totals.items()})
        content[_PRIVACY] = ConfigRecord(dict(answer.privacy))
    return Message(content, reply_to=message)


# ------------------------------------------------------------------------------------------------------------ server


class Uniform(Strategy):
    """A Flower strategy that draws clients alike, and ends rounds as one process does.

    Args:
        recipe: The run's.
        state: Where it stands.
        folder: Of the rounds' state.
        nodes: Client -> its node.
        documents: Of each client, by period.
    """

    select: Any = "uniform"

    def __init__(
        self, recipe: Recipe, state: State, folder: Path, nodes: dict[int, int], documents: dict[int, Sequence[int]]
    ) -> None:
        self.recipe, self.state, self.folder = recipe, state, folder
        self.nodes, self.documents = nodes, documents
        self._asked: dict[int, float] = {}

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
        """A message to each client that the round asks."""
        federation, number = self.recipe.federation, len(self.state.records)
        period = period_of(federation, number)
        sizes = [self.documents[k][period] if k in self.documents else 0 for k in range(federation.clients)]
        self._asked = select_clients(sizes, replace(federation, select=self.select), self.recipe.seed, number)
        return [
            Message(
                RecordDict({_ARRAYS: ArrayRecord(self.state.weights), _FACTS: ConfigRecord({"round": number})}),
                dst_node_id=self.nodes[number_of],
                message_type=MessageType.TRAIN,
            )
            for number_of in self._asked
        ]

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> tuple[Any, Any]:
        """The end of the round, and its state on disk."""
        client_of = {node: number for number, node in self.nodes.items()}
        answers = [_answer(client_of[reply.metadata.src_node_id], reply) for reply in replies]
        answers.sort(key=lambda answer: answer.client)
        self.state = finish_round(self.recipe.federation, self.state, self._asked, answers)
        self.state.save(self.folder)
        figures = {name: float(value) for name, value in self.state.records[-1]["figures"].items()}
        return ArrayRecord(self.state.weights), MetricRecord(figures)

    def configure_evaluate(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
        """Nothing: the finished student is scored."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Any]) -> Any:
        """Nothing."""
        return None

    def summary(self) -> None:
        """One line."""
        say(f"{type(self).__name__}: {len(self.nodes)} clients, {self.recipe.federation.rounds} rounds")


class ByActivity(Uniform):
    """A Flower strategy that draws clients in proportion to their documents (Dupuy et al. 2022)."""

    select = "activity"


def _answer(number: int, reply: Any) -> Answer:
    if reply.has_error():
        return Answer(number, None, error=str(reply.error.reason))
    facts = reply.content[_FACTS]
    weights = reply.content[_ARRAYS].to_torch_state_dict() if _ARRAYS in reply.content else None
    figures, totals, privacy = (
        dict(reply.content[name]) if name in reply.content else {} for name in (_FIGURES, _TOTALS, _PRIVACY)
    )
    return Answer(
        number,
        dict(weights) if weights is not None else None,
        int(facts["tokens"]),
        float(facts["seconds"]),
        str(facts["error"]),
        figures,
        totals,
        privacy,
    )


def introduced(recipe: Recipe, grid: Any, wait: float) -> tuple[dict[int, int], dict[int, Sequence[int]]]:
    """Client -> its node, and client -> its documents by period: of those that are there when all are, or time is up.

    Args:
        recipe: The server's.
        grid: Flower's.
        wait: Seconds.

    Raises:
        UserError: two clients have one number, or a client's recipe trains otherwise.
    """
    clients, begun = recipe.federation.clients, time.monotonic()
    while len(nodes := list(grid.get_node_ids())) < clients and time.monotonic() - begun < wait:
        time.sleep(1)
    asked = [Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY) for node in nodes]
    found: dict[int, int] = {}
    documents: dict[int, Sequence[int]] = {}
    for reply in grid.send_and_receive(asked, timeout=wait):
        node = reply.metadata.src_node_id
        if reply.has_error():
            say(f"node {node} does not answer: {reply.error.reason}")
            continue
        facts = reply.content[_FACTS]
        number = int(facts["client"])
        if number in found or not 0 <= number < clients:
            raise UserError(f"a node says that it is client {number}, which is taken or not one of {clients}")
        if facts["agreed"] != agreed(recipe):
            raise UserError(f"client {number} has another recipe: {', '.join(_SHARED)} must be the server's")
        found[number], documents[number] = node, list(facts["documents"])
    return found, documents


@server.main()
def serve(grid: Any, context: Any) -> None:
    """All rounds, and the student in `student/` of the recipe's output folder; goes on from the last whole round."""
    recipe = read_recipe(str(context.run_config["recipe"]))
    folder = Path(recipe.output_dir)
    checkpoints = folder / "checkpoints" / "student"
    models, _ = load_models(recipe, checkpoints)
    state = State.load(checkpoints) or State(get_weights(models.student))
    nodes, documents = introduced(recipe, grid, float(context.run_config["wait"]))
    strategy = {"uniform": Uniform, "activity": ByActivity}[recipe.federation.select](
        recipe, state, checkpoints, nodes, documents
    )
    left = recipe.federation.rounds - len(state.records)
    if left > 0:
        timeout = recipe.federation.deadline or 24 * 3600.0
        strategy.start(grid, ArrayRecord(state.weights), num_rounds=left, timeout=timeout)
    publish(recipe, models, strategy.state, folder / "student")
    say(f"the student lies in {folder / 'student'}")
