"""The server's side of Flower (extra `federated`): its ServerApp around our own functions, which run as in one process.

A round's end is `rounds.finish_round`, and clients are drawn by `select_clients`: the strategies here carry messages.
The clients' side is `node`; `app` starts both.
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr reads it

from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import Strategy
from safetensors import SafetensorError
from safetensors.torch import load, save

from distill.base.console import say
from distill.base.errors import UserError, first_line
from distill.federation.aggregation import Answer
from distill.federation.clients import get_weights
from distill.federation.device import SHARED, agreed, load_models, read_recipe
from distill.federation.node import ARRAYS, FACTS, FIGURES, PRIVACY, TOTALS, packed, unpacked
from distill.federation.rounds import State, finish_round, period_of, publish
from distill.federation.selection import select_clients
from distill.recipe import Recipe

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


def _answer(number: int, reply: Any) -> Answer:
    if reply.has_error():
        return Answer(number, None, error=str(reply.error.reason))
    facts = reply.content[FACTS]
    try:
        weights = load(unpacked(reply.content[ARRAYS])) if ARRAYS in reply.content else None
    except (SafetensorError, KeyError) as error:
        return Answer(number, None, error=f"sends weights that cannot be read: {first_line(error)}")
    figures, totals, privacy = (
        dict(reply.content[name]) if name in reply.content else {} for name in (FIGURES, TOTALS, PRIVACY)
    )
    return Answer(
        number,
        weights,
        int(facts["weight"]),
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
        facts = reply.content[FACTS]
        number = int(facts["client"])
        if number in found or not 0 <= number < clients:
            raise UserError(f"a node says that it is client {number}, which is taken or not one of {clients}")
        if facts["agreed"] != agreed(recipe):
            raise UserError(f"client {number} has another recipe: {', '.join(SHARED)} must be the server's")
        found[number], documents[number] = node, list(facts["documents"])
    return found, documents


def scores_of_clients(weights: Any, nodes: dict[int, int], grid: Any, wait: float) -> list[dict[str, Any]]:
    """What the finished student scores on the text of each client that answers, see `over_clients`.

    Args:
        weights: Of the student.
        nodes: Client -> its node.
        grid: Flower's.
        wait: Seconds, for all of them.
    """
    arrays = packed(save(weights))
    asked = [
        Message(RecordDict({ARRAYS: arrays}), dst_node_id=node, message_type=MessageType.EVALUATE)
        for node in nodes.values()
    ]
    found = []
    for reply in grid.send_and_receive(asked, timeout=wait):
        if reply.has_error():
            say(f"node {reply.metadata.src_node_id} gives no scores of its text: {reply.error.reason}")
        elif documents := int(reply.content[FACTS]["documents"]):
            number = int(reply.content[FACTS]["client"])
            found.append({"client": number, "documents": documents, **reply.content[FIGURES]})
    return sorted(found, key=lambda of_client: of_client["client"])


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
    left, timeout = recipe.federation.rounds - len(state.records), recipe.federation.deadline or 24 * 3600.0
    if left > 0:
        strategy.start(grid, packed(save(state.weights)), num_rounds=left, timeout=timeout)
    asks = bool(recipe.federation.client_metrics)
    found = scores_of_clients(strategy.state.weights, nodes, grid, timeout) if asks else []
    publish(recipe, models, strategy.state, folder / "student", found)
    say(f"the student lies in {folder / 'student'}")
