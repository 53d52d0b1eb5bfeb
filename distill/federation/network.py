"""The server's side of Flower (extra `federated`): its ServerApp around our own functions, which run as in one process.

A round's end is `rounds.finish_round`, and clients are drawn by `select_clients`: the strategies here carry messages.
The clients' side is `node`; `app` starts both.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr reads it

from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import Strategy
from safetensors.torch import load, save

from distill.base.console import say
from distill.base.errors import UserError, first_line
from distill.base.files import is_finished
from distill.federation.aggregation import NO_ANSWER, Answer, finite
from distill.federation.clients import get_weights
from distill.federation.device import Loaded, agreed, load_models, read_recipe
from distill.federation.node import ARRAYS, FACTS, FIGURES, PRIVACY, TOTALS, packed, unpacked
from distill.federation.rounds import State, finish_round, period_of, publish
from distill.federation.selection import are_enough, select_clients
from distill.metrics import CARDS
from distill.recipe import FederationConfig, Recipe
from distill.run_folder import open_run

ABSENT = "not connected when the run began"

server = ServerApp()


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
        """A message to each client that the round asks; `arrays` holds the state's weights, see `aggregate_train`."""
        federation, number = self.recipe.federation, len(self.state.records)
        period = period_of(federation, number)
        sizes = [self.documents[k][period] if k in self.documents else 0 for k in range(federation.clients)]
        self._asked = select_clients(sizes, replace(federation, select=self.select), self.recipe.seed, number)
        return [
            Message(
                RecordDict({ARRAYS: arrays, FACTS: ConfigRecord({"round": number})}),
                dst_node_id=self.nodes[number_of],
                message_type=MessageType.TRAIN,
                ttl=timeout_of(federation),
            )
            for number_of in self._asked
        ]

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> tuple[Any, Any]:
        """The end of the round, and its state on disk."""
        by_client = sorted(_of_clients(replies, self.nodes), key=lambda pair: pair[0])
        # One after another: Flower holds the bytes that all of them sent, but a single client's tensors are in memory.
        answers = (_answer(number, reply, self.recipe.is_private) for number, reply in by_client)
        absent = dict.fromkeys(set(range(self.recipe.federation.clients)) - self.nodes.keys(), ABSENT)
        self.state = finish_round(self.recipe.federation, self.state, self._asked, answers, absent)
        self.state.save(self.folder)
        figures = {name: float(value) for name, value in self.state.records[-1]["figures"].items()}
        return packed(save(self.state.weights)), MetricRecord(figures)

    def configure_evaluate(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
        """Nothing: the finished student is scored, see `scores_of_clients`."""
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


def timeout_of(config: FederationConfig) -> float:
    """Seconds for which an answer is waited for and its question lives, which by itself is 12 hours in Flower."""
    return config.deadline or 24 * 3600.0


def _of_clients(replies: Iterable[Any], nodes: dict[int, int]) -> Iterator[tuple[int, Any]]:
    """Client, and what it sent. In the place of a node that is gone the SuperLink answers, in its own name, that there
    is no answer: such a client is silent."""
    client_of = {node: number for number, node in nodes.items()}
    for reply in replies:
        if reply.metadata.src_node_id in client_of:
            yield client_of[reply.metadata.src_node_id], reply


def _answer(number: int, reply: Any, private: bool) -> Answer:
    """What a client's message says; of one that cannot be read, why not: it is another's program that wrote it."""
    if reply.has_error():
        return Answer(number, None, error=str(reply.error.reason))
    try:
        return _read(number, reply.content, private)
    except Exception as error:
        told = f"{type(error).__name__}: {first_line(error)}"
        return Answer(number, None, error=f"sends an answer that cannot be read: {told}")


def _read(number: int, content: Any, private: bool) -> Answer:
    facts = content[FACTS]
    weights = load(unpacked(content[ARRAYS])) if ARRAYS in content else None
    figures, totals, told = (dict(content[name]) if name in content else {} for name in (FIGURES, TOTALS, PRIVACY))
    privacy = finite(told) | {name: value for name, value in told.items() if isinstance(value, str)}
    if private and weights is not None and "epsilon" not in privacy:
        raise ValueError("privacy.epsilon is set, and it does not say what it spent")
    return Answer(
        number,
        weights,
        int(facts["weight"]),
        float(facts["seconds"]),
        str(facts["error"]),
        finite(figures),
        finite(totals),
        privacy,
    )


def introduced(
    recipe: Recipe, loaded: Loaded, grid: Any, wait: float
) -> tuple[dict[int, int], dict[int, Sequence[int]]]:
    """Client -> its node, and client -> its documents by period: of those that are there when all are, or time is up.

    Args:
        recipe: The server's.
        loaded: What it names.
        grid: Flower's.
        wait: Seconds.

    Raises:
        UserError: two clients have one number, a client's recipe trains otherwise, or fewer are there than
            `min_fraction` asks for.
    """
    clients, begun = recipe.federation.clients, time.monotonic()
    ours = agreed(recipe, loaded)
    found: dict[int, int] = {}
    documents: dict[int, Sequence[int]] = {}
    asked: set[int] = set()
    gone: set[int] = set()  # a SuperNode that crashed counts as connected for a while; it comes back as another node
    while True:
        while len(there := [node for node in grid.get_node_ids() if node not in gone]) < clients:
            if time.monotonic() - begun >= wait:
                break
            time.sleep(1)
        if not (new := [node for node in there if node not in asked]):
            break
        asked |= set(new)
        messages = [Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY, ttl=wait) for node in new]
        silent = set(new)
        for reply in grid.send_and_receive(messages, timeout=wait):
            silent.discard(node := reply.metadata.src_node_id)
            who = f"node {node}" if node in new else "a node"  # the SuperLink speaks for one that is gone
            if (told := _introduction(who, reply)) is not None:
                number, held, theirs = told
                _require_alike(clients, ours, number, theirs, found)
                found[number], documents[number] = node, held
        gone |= silent
    _require_enough(recipe.federation, found)
    return found, documents


def _introduction(who: str, reply: Any) -> tuple[int, list[int], dict[str, str]] | None:
    """Client, documents by period, and hashes of its recipe; None, which is said, where there is nothing to be read."""
    if reply.has_error():
        say(f"{who} does not answer: {reply.error.reason}")
        return None
    try:
        facts = reply.content[FACTS]
        return int(facts["client"]), list(facts["documents"]), dict(json.loads(facts["agreed"]))
    except Exception as error:  # it is another's program that wrote it
        say(f"{who} says nothing that can be read: {type(error).__name__}: {first_line(error)}")
        return None


def _require_alike(
    clients: int, ours: dict[str, str], number: int, theirs: dict[str, str], found: Iterable[int]
) -> None:
    """Raises UserError where a client has a number that is taken, or another recipe."""
    if number in found or not 0 <= number < clients:
        raise UserError(f"a node says that it is client {number}, which is taken or not one of {clients}")
    if differ := [key for key in ours | theirs if ours.get(key) != theirs.get(key)]:
        raise UserError(f"client {number} has another recipe: its {', '.join(differ)} must be as the server has it")


def _require_enough(config: FederationConfig, found: Iterable[int]) -> None:
    """Say which clients are not there. Raises UserError where those that are there are too few."""
    there = set(found)
    if not (missing := sorted(set(range(config.clients)) - there)):
        return
    names = ", ".join(map(str, missing))
    who = f"of {config.clients} clients, {len(there)} are connected and have answered; {names} are missing"
    if not are_enough(len(there), config.clients, config):
        raise UserError(
            f"{who}, and federation.min_fraction asks for {config.min_fraction:g} of them; start their SuperNodes, or "
            "wait longer (--wait)"
        )
    say(f"{who}, and left out of every round")


def scores_of_clients(weights: Any, nodes: dict[int, int], grid: Any, wait: float) -> list[dict[str, Any]]:
    """What the finished student scores on the text of each client that answers, see `over_clients`.

    Args:
        weights: Of the student.
        nodes: Client -> its node.
        grid: Flower's.
        wait: Seconds, for all of them.
    """
    arrays = packed(save(weights))
    messages = [
        Message(RecordDict({ARRAYS: arrays}), dst_node_id=node, message_type=MessageType.EVALUATE, ttl=wait)
        for node in nodes.values()
    ]
    found, silent = [], set(nodes)
    for number, reply in _of_clients(grid.send_and_receive(messages, timeout=wait), nodes):
        silent.discard(number)
        if reply.has_error():
            say(f"client {number} gives no scores of its text: {reply.error.reason}")
            continue
        try:
            documents, figures = int(reply.content[FACTS]["documents"]), finite(reply.content[FIGURES])
        except Exception as error:  # it is another's program that wrote it
            say(f"client {number} gives no scores that can be read: {type(error).__name__}: {first_line(error)}")
            continue
        if documents:
            known = {name: value for name, value in figures.items() if name in CARDS}
            found.append({"client": number, "documents": documents, **known})
    for number in sorted(silent):
        say(f"client {number} gives no scores of its text: {NO_ANSWER}")
    return sorted(found, key=lambda of_client: of_client["client"])


@server.main()
def serve(grid: Any, context: Any) -> None:
    """All rounds, and the student in `student/` of the recipe's output folder; goes on from the last whole round.

    Raises:
        UserError: the folder holds another recipe's run, or one that has not ended; see `introduced` and `publish`.
    """
    recipe = read_recipe(str(context.run_config["recipe"]))
    with open_run(recipe) as folder:
        if is_finished(folder / "student"):
            say(f"{folder / 'student'} is finished")
            return
        if recipe.is_private and not recipe.privacy.secure:
            say(
                "privacy: the noise comes from the seed, which server and clients know, so that epsilon holds against "
                "none of them; privacy.secure takes it from each client's operating system"
            )
        checkpoints = folder / "checkpoints" / "student"
        loaded = load_models(recipe, checkpoints)
        nodes, documents = introduced(recipe, loaded, grid, float(context.run_config["wait"]))
    state = State.load(checkpoints) or State(get_weights(loaded.models.student))
    strategy = {"uniform": Uniform, "activity": ByActivity}[recipe.federation.select](
        recipe, state, checkpoints, nodes, documents
    )
    left, timeout = recipe.federation.rounds - len(state.records), timeout_of(recipe.federation)
    if left > 0:
        strategy.start(grid, packed(save(state.weights)), num_rounds=left, timeout=timeout)
    asks = bool(recipe.federation.client_metrics)
    found = scores_of_clients(strategy.state.weights, nodes, grid, timeout) if asks else []
    publish(recipe, loaded.models, strategy.state, folder / "student", found)
    say(f"the student lies in {folder / 'student'}")
