"""Rounds: clients are asked, what they send is averaged, and the state is written whole before the next one begins.

    folder/checkpoint-R/model.safetensors       the weights after R rounds
                        optimizer.safetensors   the moments of the server's optimizer
                        rounds.json             what each round was, and what all updates took
    folder/client/                              checkpoints of the update that is being made

A run that is killed does the round that it was in again, from the weights of the last one. Who is asked, and what each
client does, follows from the seed and the round's number; so the weights are the same to the bit.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.torch import load_file, save_file

from distill.base.console import Stopped, say, stop_signals_kept
from distill.base.errors import UserError, storage_errors_as_user_errors
from distill.base.files import training_record, write_json
from distill.federation.aggregation import NO_ANSWER, Answer, Change, Weights, fault, server_step
from distill.federation.client_scores import over_clients, scorer
from distill.federation.clients import Clients, get_weights, many_updates, set_weights, update
from distill.federation.selection import are_enough, select_clients
from distill.objective.logit_ops import RoleMap
from distill.recipe import FederationConfig, Recipe
from distill.training import checkpoints as checkpoint_folder
from distill.training.run import Models, cache_folder, prepare, write_student
from distill.training.training_log import Totals

_KEPT = 2  # rounds
_Used = tuple[float, Mapping[str, float], Mapping[str, Any]]  # weight, figures, privacy


@dataclass(frozen=True)
class State:
    """Where a federation stands between two rounds.

    Args:
        weights: The student's.
        moments: Of the server's optimizer.
        records: What each round was, in order; see `finish_round`.
        totals: What all usable updates took, see `Totals`.
    """

    weights: Weights
    moments: Weights = field(default_factory=dict)
    records: tuple[dict[str, Any], ...] = ()
    totals: Mapping[str, float] = field(default_factory=lambda: asdict(Totals()))

    def save(self, folder: Path) -> None:
        """Write it as `checkpoint-R`, whole or not at all; of older ones, one stays.

        Raises:
            UserError: the disk is full or gone.
        """
        number = len(self.records)
        partial = folder / checkpoint_folder.PARTIAL / checkpoint_folder.name_of(number)
        with storage_errors_as_user_errors():
            checkpoint_folder.clear_partial(folder)
            partial.mkdir(parents=True)
            save_file(self.weights, partial / "model.safetensors")
            save_file(self.moments, partial / "optimizer.safetensors")
            write_json(partial / "rounds.json", {"rounds": self.records, "totals": self.totals})
            checkpoint_folder.publish(folder, number, _KEPT)

    @classmethod
    def load(cls, folder: Path) -> "State | None":
        """The newest whole one that was saved in a folder; None where there is none."""
        if (newest := checkpoint_folder.newest_whole(folder)) is None:
            return None
        kept = json.loads((newest / "rounds.json").read_text(encoding="utf-8"))
        weights, moments = (load_file(newest / f"{name}.safetensors") for name in ("model", "optimizer"))
        return cls(weights, moments, tuple(kept["rounds"]), kept["totals"])


def period_of(config: FederationConfig, number: int) -> int:
    """The period of a round, both counted from 0."""
    return number * config.periods // config.rounds


def finish_round(
    config: FederationConfig,
    state: State,
    asked: Mapping[int, float],
    answers: Iterable[Answer],
    absent: Mapping[int, str] = MappingProxyType({}),
) -> State:
    """The state after a round: the same function for clients in one process and over a network.

    A client whose answer cannot be used, or that gives none, is left out. Where fewer than `min_fraction` of those that
    were asked are left, the weights and the server's moments stay as they were.

    Args:
        config: The algorithm.
        state: Before the round.
        asked: Client -> its chance to be asked, see `select_clients`.
        answers: Taken one after the other, so that a single client's weights are in memory at a time.
        absent: Clients that no round can ask -> why. They are named, and are not among those of which a round has to
            use `min_fraction`.

    Returns:
        Its last record holds: round and period, counted from 1; used, clients; left_out, client -> why; counted,
        whether the round changed the weights; bytes, those that were sent back; figures, the weighted means of what the
        clients logged; privacy, where updates are private, what they account for; tokens, those that were trained on,
        unless clients tell none.
    """
    number = len(state.records) + 1
    change, used, left_out, totals = _collected(config, state, asked, answers)
    for client, why in left_out.items():
        say(f"round {number}: client {client} is left out: {why}")
    counted = bool(used) and are_enough(len(used), len(asked), config)
    weights, moments = state.weights, state.moments
    if counted:
        weights, moments = server_step(config, weights, change.mean(), moments)
    else:
        wanted = f"federation.min_fraction asks for {config.min_fraction:g} of them"
        say(f"round {number} changes nothing: {len(used)} of {len(asked)} clients can be used, and {wanted}")
    record = {
        "round": number,
        "period": period_of(config, number - 1) + 1,
        "used": sorted(used),
        "left_out": {str(client): why for client, why in sorted({**absent, **left_out}.items())},
        "counted": counted,
        "bytes": len(used) * sum(weight.numel() * weight.element_size() for weight in weights.values()),
        "figures": _weighted_means((weight, figures) for weight, figures, _ in used.values()),
    }
    if spent := [privacy for *_, privacy in used.values() if privacy]:
        record["privacy"] = ranges(spent)
    if (tokens := totals["student_tokens"] - state.totals["student_tokens"]) or not spent:
        record["tokens"] = tokens
    return State(weights, moments, (*state.records, record), totals)


def _collected(
    config: FederationConfig, state: State, asked: Mapping[int, float], answers: Iterable[Answer]
) -> tuple[Change, dict[int, _Used], dict[int, str], dict[str, float]]:
    """The change, client -> what it counts, client -> why it is left out, and what all updates took so far."""
    change, totals = Change(state.weights), dict(state.totals)
    used: dict[int, _Used] = {}
    left_out: dict[int, str] = {}
    for answer in answers:
        why = fault(answer, state.weights, config.deadline)
        if why or answer.weights is None:
            left_out[answer.client] = why
            continue
        weight = answer.weight / asked[answer.client]
        change.add(answer.weights, weight)
        used[answer.client] = weight, answer.figures, answer.privacy
        totals = {name: value + answer.totals.get(name, 0) for name, value in totals.items()}
    silent = asked.keys() - used.keys() - left_out.keys()
    return change, used, left_out | {client: f"dropped out: {NO_ANSWER}" for client in sorted(silent)}, totals


def ranges(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several say of the same things: the value where they agree, [least, largest] where not."""
    found = {}
    for name in dict.fromkeys(name for of in facts for name in of):
        told = [of[name] for of in facts if name in of]
        values = [value for one in told for value in (one if isinstance(one, list) else [one])]
        # Clients on other machines may send words where others send numbers.
        in_order = sorted(values, key=lambda value: (isinstance(value, str), value))
        least, largest = in_order[0], in_order[-1]
        found[name] = least if least == largest else [least, largest]
    return found


def _weighted_means(figures: Iterable[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """Of what clients logged, each name over those that have it."""
    sums: dict[str, tuple[float, float]] = {}
    for weight, of_client in figures:
        for name, value in of_client.items():
            total, weights = sums.get(name, (0.0, 0.0))
            sums[name] = total + weight * value, weights + weight
    return {name: total / weights for name, (total, weights) in sorted(sums.items())}


# ------------------------------------------------------------------------------------------------------ one process


def train_federated(
    recipe: Recipe,
    *,
    student: Any,
    teacher: Any,
    tokenizer: Any,
    blocks: Clients,
    role_maps: Sequence[RoleMap],
    checkpoints: Path,
    destination: Path,
) -> None:
    """What `train_student` is to one text, over the clients' text: all rounds in one process, then the student.

    `federation/NAME.json` beside the student tells the rounds; `training/NAME.json` has a log entry for each.

    Args:
        recipe: Of the student.
        student, teacher, tokenizer, role_maps: See `train_student`.
        blocks: The clients' text.
        checkpoints: Folder of the rounds' state.
        destination: Folder of the finished student.

    Raises:
        UserError: see `train_student`; or no round changed the weights.
        Stopped: SIGINT or SIGTERM came; the step was finished and saved.
    """
    models = prepare(recipe, student, teacher, tokenizer, role_maps, checkpoints)
    cache = cache_folder(recipe, destination.parent)
    state = State.load(checkpoints) or State(get_weights(student))
    config = recipe.federation
    watch = scorer(recipe, tokenizer, blocks.swapper, config.watch, "federation.watch")
    score = scorer(recipe, tokenizer, blocks.swapper, config.client_metrics, "federation.client_metrics")
    with stop_signals_kept() as signals, many_updates():
        while len(state.records) < config.rounds:
            state = _round(recipe, models, blocks, state, checkpoints, cache, signals)
            set_weights(student, state.weights)
            state.records[-1]["scores"] = watch(student, blocks.held_out)
            state.save(checkpoints)
    set_weights(student, state.weights)
    found = []
    for client, text in enumerate(blocks.texts):
        if text.sample:
            say(f"scores on the text of client {client} ({client + 1} of {len(blocks.texts)})")
            found.append({"client": client, "documents": len(text.sample), **score(student, text.sample)})
    publish(recipe, models, state, destination, found)
    if signals:
        raise Stopped(signals[0])


def _round(
    recipe: Recipe,
    models: Models,
    clients: Clients,
    state: State,
    folder: Path,
    cache: Path,
    signals: Sequence[int],
) -> State:
    """One round, its clients one after another."""
    config, number = recipe.federation, len(state.records)
    period = period_of(config, number)
    asked = select_clients(clients.documents(period), config, recipe.seed, number)

    def answers() -> Iterable[Answer]:
        for place, client in enumerate(asked):
            say(f"round {number + 1} of {config.rounds}: client {client} ({place + 1} of {len(asked)})")
            blocks = clients.texts[client].blocks[period]
            assert blocks is not None  # or it would not be asked
            own = folder / "client" / f"{number}-{client}"
            yield update(
                recipe, models, blocks, state.weights,
                number=number, client=client, folder=own, cache=cache, signals=signals,
            )  # fmt: skip
            if signals:
                raise Stopped(signals[0])

    return finish_round(config, state, asked, answers())


def publish(
    recipe: Recipe,
    models: Models,
    state: State,
    destination: Path,
    found: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Put the student of finished rounds at `destination`, and what they were beside it.

    Args:
        recipe: The run's.
        models: Their student takes the weights.
        state: After all rounds.
        destination: Folder of the student.
        found: What it scores on the text of each client, see `over_clients`.

    Raises:
        UserError: no round changed the weights.
    """
    if not any(record["counted"] for record in state.records):
        last = state.records[-1]["left_out"]
        who, why = next(iter(last.items()), ("", "no client has text"))
        raise UserError(
            f"no student is published: in none of {len(state.records)} rounds could the answers of so many clients be "
            f"used as federation.min_fraction asks for (in the last one, client {who}: {why}); mend that, and remove "
            f"{destination.parent} to begin again"
        )
    set_weights(models.student, state.weights)
    steps = recipe.federation.local_steps
    history = [
        {"step": steps * record["round"], "round": record["round"], "clients": len(record["used"]),
         "left_out": len(record["left_out"]), **record["figures"],
         **{f"score_{name}": value for name, value in record.get("scores", {}).items()}}
        for record in state.records
    ]  # fmt: skip
    folder = destination.parent / "federation"
    for parent in (folder, training_record(destination).parent):
        parent.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{destination.name}.json", list(state.records))
    # Private clients on other machines tell no tokens.
    totals = {name: value for name, value in state.totals.items() if value or not recipe.is_private}
    told: dict[str, Any] = {"history": history, **totals}
    if found:
        write_json(folder / f"{destination.name}-clients.json", list(found))
        told["over_clients"] = over_clients(found)
    if spent := [record["privacy"] for record in state.records if "privacy" in record]:
        told["privacy"] = ranges(spent) | {"clients": recipe.federation.clients}
    write_json(training_record(destination), told)
    write_student(recipe, models, models.student.state_dict(), destination)
