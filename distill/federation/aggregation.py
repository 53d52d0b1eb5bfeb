"""What clients send -> the weights of the next round: whose answers count, their mean, the server's step.

FedAvg (McMahan et al. 2017) and FedProx (Li et al. 2020) take the clients' weighted mean; FedOpt (Reddi et al. 2021)
takes the mean change for a gradient. Sums are in float64, so that the order of clients is lost in rounding.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distill.recipe import FederationConfig

NO_ANSWER = "no answer"
Weights = dict[str, Tensor]  # a tied weight stands in it once


@dataclass(frozen=True)
class Answer:
    """What a client sends back.

    Args:
        client: Its number.
        weights: Those that it trained; None where it sends none.
        weight: What it counts in the mean, before that is divided by its chance to be asked. The tokens of its text
            that bear loss, counterfactuals included where they are trained on; or, where its update is private, its
            documents, as how many tokens they have is for nobody to know.
        seconds: That the answer took.
        error: Why there are no weights.
        figures: What its log says, means over its steps.
        totals: What its training took, see `Totals`.
        privacy: What it accounts for, over all rounds; see `PrivateTrainer.train`.
    """

    client: int
    weights: Weights | None
    weight: int = 0
    seconds: float = 0.0
    error: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    totals: Mapping[str, float] = field(default_factory=dict)
    privacy: Mapping[str, Any] = field(default_factory=dict)


def fault(answer: Answer, sent: Weights, deadline: float | None) -> str:
    """Why an answer cannot be used; "" if it can.

    Args:
        answer: Of a client.
        sent: The weights that it was sent.
        deadline: Seconds that it had; None for any number.
    """
    if answer.weights is None:
        return f"dropped out: {answer.error or NO_ANSWER}"
    if deadline is not None and answer.seconds > deadline:
        return f"late: answered after {answer.seconds:.3g} s, and had {deadline:g}"
    if _form(answer.weights) != _form(sent):
        return "sent other weights than it was sent"
    if answer.weight <= 0:
        return "trained on no text"
    if broken := [name for name, weight in answer.weights.items() if not weight.isfinite().all()]:
        return f"sent numbers that are not finite, in {broken[0]}" + (
            f" and {len(broken) - 1} more" * (len(broken) > 1)
        )
    return ""


def _form(weights: Weights) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """What two sets of weights have alike that can be averaged."""
    return {name: (weight.shape, weight.dtype) for name, weight in weights.items()}


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of some values that are finite numbers."""
    return {name: v for name, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}


class Change:
    """The weighted mean of what clients changed, added up one client at a time.

    Args:
        begun: The weights that all of them began with.
    """

    def __init__(self, begun: Weights) -> None:
        self._begun = begun
        self._sums = {name: torch.zeros(w.shape, dtype=torch.float64) for name, w in begun.items()}
        self._weight = 0.0

    def add(self, weights: Weights, weight: float) -> None:
        """Add a client's weights, which count `weight`."""
        self._weight += weight
        for name, total in self._sums.items():
            total += weight * (weights[name].double() - self._begun[name].double())

    def mean(self) -> Weights:
        """The mean change, in float64."""
        return {name: total / self._weight for name, total in self._sums.items()}


def server_step(
    config: FederationConfig, weights: Weights, change: Weights, moments: Weights
) -> tuple[Weights, Weights]:
    """The next round's weights, and the server optimizer's moments after the step.

    - `avg`, `prox`: the weights plus the mean change d, which is the clients' mean.
    - `opt`, `sgd`: m = momentum m + d; the weights plus lr m (FedAvgM, Hsu, Qi and Brown 2019).
    - `opt`, `adam`: m = momentum m + (1 - momentum) d, v = beta2 v + (1 - beta2) d^2, v first tau^2; the weights plus
      lr m / (sqrt(v) + tau) (FedAdam: Reddi et al. 2021, algorithm 2, which has no correction of the first steps).

    Args:
        config: Algorithm and server.
        weights: Of this round.
        change: The mean change, in float64.
        moments: `m.NAME` and `v.NAME` of before; none in the first round.
    """
    server = config.server
    after, kept = {}, {}
    for name, now in weights.items():
        step = change[name]
        if config.algorithm == "opt":
            moment = moments.get(f"m.{name}", torch.zeros(now.shape)).double()
            if server.optimizer == "sgd":
                moment = server.momentum * moment + step
                step = server.lr * moment
            else:
                moment = server.momentum * moment + (1 - server.momentum) * step
                second = moments.get(f"v.{name}", torch.full(now.shape, server.tau**2)).double()
                second = server.beta2 * second + (1 - server.beta2) * step.square()
                step = server.lr * moment / (second.sqrt() + server.tau)
                kept[f"v.{name}"] = second.float()
            kept[f"m.{name}"] = moment.float()
        after[name] = (now.double() + step).to(now.dtype)
    return after, kept
