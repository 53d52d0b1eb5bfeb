"""The benchmark of private steps: its contenders read the same, and it prints what others rely on."""

import argparse
import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SHAPE = argparse.Namespace(documents=4, rows=2, tokens=16, vocabulary=64, width=64, layers=2)


@pytest.fixture
def private(monkeypatch):
    """The benchmark's module."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    yield importlib.import_module("private")
    for name in ("common", "step", "private"):
        sys.modules.pop(name, None)


def test_contenders_have_the_same_loss_before_the_first_update(private, tmp_path):
    losses = [private.product_step(name, SHAPE, tmp_path / name)()["loss"] for name in ("plain", "body", "all")]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5) and losses[0] > 0


@pytest.mark.skipif(find_spec("opacus") is None, reason="opacus is not installed (pip install 'distill[private]')")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
def test_opacus_reads_the_same(private, tmp_path):
    plain = private.product_step("plain", SHAPE, tmp_path)()["loss"]
    assert private.opacus_step(SHAPE)()["loss"] == pytest.approx(plain, rel=1e-4)


def test_ratios_are_private_over_not_private(private):
    records = {name: [{"seconds": n, "bytes": 10.0 * n}] for n, name in enumerate(private.CONTENDERS, start=2)}
    ratios = private.report(records)["ratios"]
    assert ratios == {kind: {"body": 1.5, "all": 2.0, "opacus": 2.5} for kind in ("time", "memory")}
    assert private.report({name: records[name] for name in ("plain", "body")})["ratios"]["time"]["opacus"] is None
