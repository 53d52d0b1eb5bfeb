"""What rows take: from what their trainings and their models left behind."""

import json

import pytest
from study_files import PLAIN, small

from distill.study import costs
from distill.study.costs import keep_token_seconds, row_costs
from distill.study.file import read_study, run_folder

STUDENTS = {
    "plain": PLAIN,
    "projected": {"student": {"init": "checkpoint", "path": "{student:plain}", "remove_directions": 1}},
    "twice": {"student": {"init": "checkpoint", "path": "{student:projected}", "tokenizer": "{student:plain}"}},
}
TEACHERS = {
    "teacher": {},
    "prompted": {"prompt": "Beware:", "of": "plain"},
    "warned": {"prompt": "Beware:"},
    "shipped": {"quantize": "int4", "of": "plain"},
}


@pytest.fixture
def study(tmp_path):
    """Of two seeds: 10 and 30 seconds for the 4 steps of plain, 1 for none of projected, 5 for 2 of twice."""
    study = read_study(small(tmp_path, students=STUDENTS, teachers=TEACHERS), seeds=[0, 1], costs=True)
    for seed, of_plain in enumerate((10.0, 30.0)):
        for row, seconds, steps in (("plain", of_plain, 4), ("projected", 1.0, 0), ("twice", 5.0, 2)):
            log = run_folder(study, row, seed) / "training" / "student.json"
            log.parent.mkdir(parents=True)
            history = [{"step": step} for step in range(1, steps + 1)]
            told = {"seconds": seconds, "processor_seconds": seconds, "history": history}
            log.write_text(json.dumps(told), encoding="utf-8")
    return study


def test_a_row_takes_what_its_trainings_took_and_those_before_it(study):
    nothing = {"training_seconds": None, "step_seconds": None, "token_seconds": None}
    assert row_costs(study, "plain") == nothing | {"training_seconds": 20.0, "step_seconds": 5.0}
    assert row_costs(study, "projected") == nothing | {"training_seconds": 21.0}
    assert row_costs(study, "twice") == nothing | {"training_seconds": 26.0, "step_seconds": 2.5}
    assert row_costs(study, "shipped") == row_costs(study, "prompted") == nothing | {"training_seconds": 20.0}
    assert row_costs(study, "teacher") == row_costs(study, "warned") == nothing


def test_a_step_of_a_federation_is_that_of_one_client(study):
    """8 clients of 5 steps each in two rounds, one of which left one out: 75 steps."""
    log = run_folder(study, "plain", 0) / "training" / "student.json"
    history = [
        {"step": 5 * n, "round": n, "clients": clients, "left_out": 8 - clients} for n, clients in ((1, 8), (2, 7))
    ]
    told = {"seconds": 150.0, "processor_seconds": 150.0, "history": history}
    for seed in (0, 1):
        (run_folder(study, "plain", seed) / "training" / log.name).write_text(json.dumps(told), encoding="utf-8")
    assert row_costs(study, "plain")["step_seconds"] == pytest.approx(2.0)


def test_a_token_is_timed_once_for_each_model(study, monkeypatch):
    asked = []
    monkeypatch.setattr(costs.torch, "get_num_threads", lambda: 2)  # both are busy for the 5 ms of a token
    monkeypatch.setattr(costs.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(costs, "tokens_per_second", lambda model, tokenizer: asked.append(model) or 200.0)
    for seed in (0, 1, 1):
        keep_token_seconds(study, "plain", seed, "model", None, "hash")
    assert asked == ["model", "model"]
    assert row_costs(study, "plain")["token_seconds"] == pytest.approx(0.010)
    keep_token_seconds(study, "plain", 1, "another", None, "another hash")
    assert asked == ["model", "model", "another"]
