"""The probe of a training: the metric's own number, on few prompts of the half that chooses; cheap, and of no trace."""

import math
import random

import numpy as np
import pytest
import torch

from distill.metrics import Evaluation
from distill.metrics.next_word_disparity import next_word_disparity
from distill.recipe import Recipe, ScoreConfig
from distill.scoring import so_far
from distill.scoring.so_far import PROMPTS, probe_of
from distill.study.scores import study_prompts
from distill.text.counterfactual import Swapper
from distill.text.prompts import load_prompts


@pytest.fixture(scope="module")
def swapper(short_wordlist):
    return Swapper(short_wordlist)


def asked(monkeypatch) -> list:
    """The prompts that the metric is given, each time."""
    given, measure = [], next_word_disparity.measure
    monkeypatch.setattr(so_far.next_word_disparity, "measure", lambda e: given.append(list(e.prompts)) or measure(e))
    return given


def test_it_is_a_loop_over_its_prompts_one_at_a_time(toy_model, toy_tokenizer, swapper, monkeypatch):
    given, model = asked(monkeypatch), toy_model()
    found = probe_of(Recipe(), swapper, toy_tokenizer)(model)
    evaluation = Evaluation(model, toy_tokenizer, swapper.wordlist)
    ratios = []
    for prompt in given[0]:
        ids = [toy_tokenizer.bos_token_id, *toy_tokenizer(prompt.text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            probabilities = model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        of_groups = [float(probabilities[list(group)].sum()) for group in evaluation.roles.groups]
        ratios.append(math.log(of_groups[0] / of_groups[1]))
    assert found.size == pytest.approx(np.mean(np.abs(ratios)), rel=1e-4)
    assert found.mean == pytest.approx(np.mean(ratios), rel=1e-4)
    assert found.prompts == len(ratios) == PROMPTS == 40


@pytest.mark.parametrize("maximum", [None, 150])
def test_its_prompts_are_of_the_half_of_the_occupations_that_a_study_chooses_by(
    maximum, toy_model, toy_tokenizer, swapper, monkeypatch
):
    given, prompts = asked(monkeypatch), load_prompts()
    recipe = Recipe(seed=2, scores=ScoreConfig(max_prompts=maximum))
    probe = probe_of(recipe, swapper, toy_tokenizer)
    for seed in (0, 1):
        probe(toy_model(seed=seed))
    assert given[0] == given[1]
    asked_of_all, places = study_prompts(recipe, swapper)
    chosen, held_out = ({asked_of_all[place].subject for place in of_half} for of_half in places.values())
    occupations = list(dict.fromkeys(prompt.subject for prompt in prompts))
    assert chosen <= set(occupations[::2]) and held_out <= set(occupations[1::2])
    subjects = {prompt.subject for prompt in given[0]}
    assert subjects <= set(occupations[::2]) and not subjects & held_out
    assert len({prompt.group for prompt in given[0]}) == len({prompt.group for prompt in prompts})


def test_it_moves_no_random_number_no_weight_and_keeps_no_model(toy_model, toy_tokenizer, swapper):
    model = toy_model(resid_pdrop=0.1).train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    states = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    probe = probe_of(Recipe(), swapper, toy_tokenizer)
    first = probe(model)
    assert probe(model) == first
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert model.training and all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert probe(toy_model(seed=1)).size != first.size
    cells = [cell.cell_contents for cell in probe.__closure__]
    assert not any(isinstance(getattr(content, "model", None), torch.nn.Module) for content in cells)


def test_the_words_of_the_list_are_looked_for_once(toy_model, toy_tokenizer, swapper, monkeypatch):
    calls = []
    real = Evaluation.roles.func
    monkeypatch.setattr(Evaluation.roles, "func", lambda self: calls.append(1) or real(self))
    probe, model = probe_of(Recipe(), swapper, toy_tokenizer), toy_model()
    for _ in range(3):
        probe(model)
    assert len(calls) == 1


def test_never_too_little_and_too_long(toy_model, toy_tokenizer, swapper, tmp_path):
    assert probe_of(Recipe(scores=ScoreConfig(probe_steps=0)), swapper, toy_tokenizer) is None
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"Subject {n} said that\n" for n in range(8)), encoding="utf-8")
    few = probe_of(Recipe(scores=ScoreConfig(prompts=str(path))), swapper, toy_tokenizer)(toy_model())
    assert few.size is None and few.mean is None
    assert few.too_little == "only 4 prompts gave a value, and 5 are needed"
    # A prompt that is longer than the model's context is left out: training would have gone on without it.
    long = "".join(f"Subject {n} {'of the very long name ' * (40 if n == 0 else 0)}said that\n" for n in range(20))
    path.write_text(long, encoding="utf-8")
    found = probe_of(Recipe(scores=ScoreConfig(prompts=str(path))), swapper, toy_tokenizer)(toy_model())
    assert found.prompts == 9 and found.size is not None
    # Of `scores.context` texts alone know, as in the final score.
    short = ScoreConfig(prompts=str(path), context=4)
    assert probe_of(Recipe(scores=short), swapper, toy_tokenizer)(toy_model()) == found
