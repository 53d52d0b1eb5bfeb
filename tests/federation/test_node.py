"""A client's side of Flower: light, and clear about what its node was not told. Messages are in `test_network`."""

import logging
import subprocess
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("flwr", reason="the extra federated (flwr) is not installed")

from distill.base.errors import UserError
from distill.federation import node


def test_the_process_of_a_message_loads_no_torch():
    heavy = ("torch", "transformers", "datasets", "distill.recipe")
    code = f"import sys, distill.federation.node; sys.exit(str([m for m in {heavy} if m in sys.modules] or 0))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() in ("", "0"), done.stderr


def test_what_a_node_was_not_told_is_named():
    with pytest.raises(UserError, match=r"--node-config of a SuperNode lacks recipe and folder"):
        node._ask(SimpleNamespace(node_config={"client": 1}, run_id=1))


@pytest.mark.parametrize(
    ("told", "sentence"), [({"own": "false"}, "own='false'"), ({"client": "1"}, "client='1'"), ({"own": 1}, "own=1")]
)
def test_what_is_of_another_kind_is_refused(told, sentence):
    """`own="false"` is words, and would be taken for true."""
    config = {"recipe": "r.yaml", "client": 1, "folder": "here", **told}
    with pytest.raises(UserError, match=sentence):
        node._ask(SimpleNamespace(node_config=config, run_id=1))


def test_flower_tells_a_users_mistake_without_a_traceback(caplog):
    logger = logging.getLogger("flwr")
    logger.propagate, before = True, logger.propagate
    try:
        for error in (UserError("no such file"), ValueError("a bug")):
            try:
                raise error
            except Exception as raised:
                logger.error("ClientApp raised an exception", exc_info=raised)
    finally:
        logger.propagate = before
    mistake, bug = caplog.records
    assert (mistake.getMessage(), mistake.exc_info) == ("error: no such file", None)
    assert bug.exc_info


def test_the_worker_is_told_all_that_it_must_know(monkeypatch):
    seen = []
    monkeypatch.setattr(node, "ask", lambda *given: seen.append(given) or ({}, b""))
    config = {"recipe": "r.yaml", "client": 3, "folder": "here", "own": True, "keep": 5}
    node._ask(SimpleNamespace(node_config=config, run_id=9), b"w", round=2)
    ((folder, request, payload, keep),) = seen
    assert (str(folder), payload, keep) == ("here/worker", b"w", 5.0)
    assert request == {"recipe": "r.yaml", "client": 3, "folder": "here", "own": True, "run": 9, "round": 2}


def test_weights_travel_as_one_array_and_arrive_as_they_were():
    weights = bytes(range(256)) * 5
    record = node.packed(weights)
    assert len(record) == 1
    assert node.unpacked(record) == weights
