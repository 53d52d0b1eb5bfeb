"""Models that are asked by several: loaded once, each answer that of the model alone, everybody's turn in time."""

import threading
import time
from dataclasses import replace

import pytest
import torch

from distill.base.errors import UserError
from distill.demo import loaded as module
from distill.demo.loaded import Turns, load
from distill.demo.sources import read_shown
from distill.models.generation import generate
from distill.models.two_view import TwoViewTeacher

PROMPT = "The man said that"


def test_every_model_is_loaded_once(toy_run_folder, monkeypatch):
    asked = []
    plain = module.load_frozen
    monkeypatch.setattr(module, "load_frozen", lambda config: asked.append(config.path) or plain(config))
    found = load(read_shown([str(toy_run_folder)]))
    assert sorted(asked) == sorted(source.model.path for source in found.shown.sources)
    assert found.models[0].evaluation.roles is found.models[2].evaluation.roles  # one tokenizer, looked through once
    assert found.target.whole.evaluation.model.model is found.models[0].evaluation.model


def test_probabilities_are_those_of_the_model_alone(loaded):
    for model in loaded.models:
        tokenizer = model.evaluation.tokenizer
        ids = [tokenizer.bos_token_id, *tokenizer(PROMPT)["input_ids"]]
        with torch.no_grad():
            alone = model.evaluation.model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
        torch.testing.assert_close(model.log_probabilities(PROMPT), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.5, 1.0])
def test_the_slider_shows_what_a_two_view_teacher_of_that_strength_says(loaded, strength):
    teacher = loaded.models[0].evaluation
    model = TwoViewTeacher(
        teacher.model, teacher.tokenizer, teacher.swapper, replace(loaded.shown.target, strength=strength),
        teacher.role_maps,
    )  # fmt: skip
    ids, _ = teacher.encode(PROMPT)
    wanted = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
    for _ in range(2):  # worked out, and kept
        found = loaded.target.log_probabilities(PROMPT, strength)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.logsumexp(0), torch.zeros((), dtype=torch.float64), atol=1e-5, rtol=0)


def test_targets_are_kept_for_a_few_prompts_only(loaded, monkeypatch):
    monkeypatch.setattr(module, "_TARGETS_KEPT", 3)
    for number in range(6):
        loaded.target.log_probabilities(f"{PROMPT} {number}", 1.0)
    assert len(loaded.target._kept) <= 4


def test_texts_are_those_of_generate(loaded):
    decoding = {"max_new_tokens": 6, "temperature": 1.0, "top_p": 1.0}
    for model in loaded.models:
        of_model = model.evaluation.model, model.evaluation.tokenizer
        assert model.texts(PROMPT, 3, 5, decoding) == generate(*of_model, [PROMPT], samples=3, seed=5, **decoding)[0]


def test_a_prompt_beyond_the_context_is_told(loaded):
    with pytest.raises(UserError, match=r"the prompt has \d+ tokens, but the model reads 64 at once; shorten it"):
        loaded.models[0].log_probabilities("He said. " * 40)


def test_turns_go_in_the_order_in_which_they_are_asked_for():
    turns, order, ready = Turns(), [], threading.Event()

    def wait(name):
        with turns.taken():
            order.append(name)

    with turns.taken():
        threads = []
        for name in range(5):
            thread = threading.Thread(target=wait, args=(name,))
            thread.start()
            threads.append(thread)
            while len(turns._waiting) <= name:
                time.sleep(0.001)
        ready.set()
        assert order == []
    for thread in threads:
        thread.join(timeout=5)
    assert order == list(range(5))


def test_who_comes_back_stands_behind_who_waits():
    """A plain lock would go back to the thread that has just left it, and a guest would wait for all of its texts."""
    turns, order = Turns(), []
    waiting = threading.Event()

    def guest():
        waiting.set()
        with turns.taken():
            order.append("guest")

    thread = threading.Thread(target=guest)
    for step in range(3):
        with turns.taken():
            if step == 0:
                thread.start()
                waiting.wait()
                while not turns._waiting:
                    time.sleep(0.001)
            order.append(step)
    thread.join(timeout=5)
    assert order == [0, "guest", 1, 2]


def test_a_turn_ends_with_a_mistake_too():
    turns = Turns()
    with pytest.raises(ValueError), turns.taken():
        raise ValueError
    with turns.taken():
        pass
