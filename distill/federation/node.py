"""A client's side of Flower: the ClientApp, which a SuperNode starts anew for every message.

It loads no torch: what it is asked, it asks the node's worker, which stays (see `worker`).
"""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr reads it

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from distill.base.errors import UserError
from distill.federation.worker import ask

#: Names of the records in the messages between server and clients.
ARRAYS, FACTS, FIGURES, TOTALS, PRIVACY = "arrays", "facts", "figures", "totals", "privacy"

_WEIGHTS = "safetensors"
_KEEP = 600.0  # seconds

client = ClientApp()


class _InOneLine(logging.Filter):
    """A mistake of a user is a sentence in Flower's log, without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Changes the record; all pass."""
        if record.exc_info and isinstance(error := record.exc_info[1], UserError):
            record.msg, record.args, record.exc_info = f"error: {error}", (), None
        return True


logging.getLogger("flwr").addFilter(_InOneLine())


@client.query()
def describe(message: Any, context: Any) -> Any:
    """Who this is, and how many documents each period has."""
    facts, _ = _ask(context)
    return Message(RecordDict({FACTS: ConfigRecord(facts)}), reply_to=message)


@client.train()
def train(message: Any, context: Any) -> Any:
    """A client's update."""
    answer, trained = _ask(context, unpacked(message.content[ARRAYS]), round=int(message.content[FACTS]["round"]))
    content = RecordDict({FACTS: ConfigRecord(answer["facts"])})
    if trained:
        content[ARRAYS] = packed(trained)
        content[FIGURES] = MetricRecord({name: float(value) for name, value in answer["figures"].items()})
        content[TOTALS] = MetricRecord({name: float(value) for name, value in answer["totals"].items()})
        content[PRIVACY] = ConfigRecord(answer["privacy"])
    return Message(content, reply_to=message)


@client.evaluate()
def score(message: Any, context: Any) -> Any:
    """What the finished student scores on the client's own text."""
    answer, _ = _ask(context, unpacked(message.content[ARRAYS]), score=True)
    facts = ConfigRecord({name: answer[name] for name in ("client", "documents")})
    return Message(RecordDict({FACTS: facts, FIGURES: MetricRecord(answer["figures"])}), reply_to=message)


def packed(weights: bytes) -> Any:
    """Safetensors as a record of one array: Flower hands on every array by itself, in several requests each time."""
    return ArrayRecord({_WEIGHTS: Array(np.frombuffer(weights, dtype=np.uint8))})


def unpacked(record: Any) -> bytes:
    """What `packed` was given."""
    return record[_WEIGHTS].numpy().tobytes()


def _ask(context: Any, payload: bytes = b"", **request: Any) -> tuple[dict[str, Any], bytes]:
    """What the worker answers about the client that a SuperNode's --node-config describes.

    recipe: the client's recipe. client: its number. folder: where its blocks go. own: the text of the recipe is the
    client's own; without it, the client takes its share of a text that is dealt to all. keep: seconds for which what
    was loaded stays, when nobody asks.
    """
    config = context.node_config
    if missing := [name for name in ("recipe", "client", "folder") if name not in config]:
        raise UserError(f"--node-config of a SuperNode lacks {' and '.join(missing)}; see recipes/federated/README.md")
    if not isinstance(own := config.get("own", False), bool):
        raise UserError(f"--node-config says own={own!r}; write own=true or own=false, without quotation marks")
    if not isinstance(number := config["client"], int):
        raise UserError(f"--node-config says client={number!r}; write a number without quotation marks")
    request |= {
        "recipe": str(config["recipe"]),
        "client": number,
        "folder": str(config["folder"]),
        "own": own,
        "run": int(context.run_id),  # another one may find another recipe and other text
    }
    return ask(Path(request["folder"], "worker"), request, payload, float(config.get("keep", _KEEP)))
