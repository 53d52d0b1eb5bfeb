"""Accumulated prediction sensitivity: a linear case by hand, its laws, and gradients one text at a time."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from downstream_data import DEMO_TEACHER, SETTINGS, evaluation_of, write_hatexplain, write_people
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from transformers import GPT2Config

from distill.metrics import METRICS, score
from distill.metrics.classifier import Head
from distill.metrics.downstream import hatexplain_task, occupations_task, protected_heads, task_features, task_heads
from distill.metrics.prediction_sensitivity import prediction_sensitivity
from distill.metrics.prediction_sensitivity.prediction_sensitivity import (
    accumulated_sensitivity,
    head_gradients,
    input_gradients,
    protected_weights,
)
from distill.models.loading import load_model, load_tokenizer
from distill.recipe import ScoreConfig

SENSITIVITY = METRICS["prediction_sensitivity"]
CARDS = {card.name: card for card in SENSITIVITY.CARDS}
WORDS = "male\tfemale\nactor\tactress\nman\twoman\nhe\tshe\nking\tqueen\n"
TEXTS = ["The king took a coat.", "Nothing", "She saw the man, and nothing happened at all."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_hatexplain(write_people(tmp_path_factory.mktemp("data")))


class Embeddings(torch.nn.Module):
    """A model whose hidden states are the input embeddings: a head's logits are linear in them."""

    def __init__(self, vocab_size: int, dimensions: int = 6):
        super().__init__()
        self.config = GPT2Config(vocab_size=vocab_size, n_positions=64)
        self.device = torch.device("cpu")
        generator = torch.Generator().manual_seed(0)
        self.table = torch.nn.Embedding.from_pretrained(torch.randn(vocab_size, dimensions, generator=generator))

    @property
    def base_model(self):
        return self

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None, use_cache=None):
        return SimpleNamespace(last_hidden_state=self.table(input_ids) if inputs_embeds is None else inputs_embeds)


# ------------------------------------------------------------------------------------------------- the linear case


def test_linear_models_by_hand():
    """f(x) = A x with A = (1 -2 0; 0 1 3), g(x) = 3 x_0 - x_1, w = (1/2, 1/4): v = (3/4, 1/4, 0).

    |A| v = (3/4 + 2/4, 1/4) = (5/4, 1/4), P = 5/8 + 1/16 = 11/16.
    """
    jacobian = np.array([[1.0, -2.0, 0.0], [0.0, 1.0, 3.0]])
    weights = protected_weights(np.array([3.0, -1.0, 0.0]))
    np.testing.assert_allclose(weights, [0.75, 0.25, 0])
    assert accumulated_sensitivity(jacobian, np.array([0.5, 0.25]), weights) == pytest.approx(11 / 16)


arrays = st_np.arrays(float, (3, 4), elements=st.integers(-50, 50).map(lambda n: n / 10))


@given(arrays, st.integers(1, 9))
def test_laws_of_the_linear_case(numbers, factor):
    a, b, w = numbers[:2], numbers[2], np.array([0.3, 0.7])
    x = torch.ones(4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: torch.from_numpy(a) @ x, x).numpy()
    gradient = torch.autograd.functional.jacobian(lambda x: torch.from_numpy(b) @ x, x).numpy()
    value = accumulated_sensitivity(jacobian, w, protected_weights(gradient))
    # Closed form, coordinate by coordinate.
    total = np.abs(b).sum()
    expected = sum(w[k] * abs(a[k, i]) * abs(b[i]) / total for k in (0, 1) for i in range(4)) if total else 0
    assert value == pytest.approx(expected)
    # Linear in the classifier and in w; the protected-status model counts by its direction alone.
    assert accumulated_sensitivity(-factor * a, w, protected_weights(b)) == pytest.approx(factor * value)
    assert accumulated_sensitivity(a, factor * w, protected_weights(b)) == pytest.approx(factor * value)
    assert accumulated_sensitivity(a, w, protected_weights(-factor * b)) == pytest.approx(value)
    # 0 for a classifier that ignores every feature that the protected-status model reads, and the largest |A|, at most.
    assert accumulated_sensitivity(np.where(b == 0, a, 0), w, protected_weights(b)) == 0
    assert value <= (w @ np.abs(a)).max() + 1e-9


def test_the_whole_metric_in_closed_form(folder, toy_tokenizer):
    """On a model whose states are its embeddings, P follows from the heads' weights and the text's length alone."""
    model = Embeddings(len(toy_tokenizer))
    evaluation = evaluation_of(model, toy_tokenizer, folder, WORDS)
    outcomes = SENSITIVITY.measure(evaluation)
    for name, task in (
        ("occupation_prediction_sensitivity", occupations_task(evaluation)),
        ("hatexplain_prediction_sensitivity", hatexplain_task(evaluation)),
    ):
        features = task_features(evaluation, task)
        scale = float(model.table.weight.square().mean().sqrt())
        expected, relative = [], []
        for head, of_group, (_, held_out) in zip(
            task_heads(evaluation, task), protected_heads(evaluation, task), task.folds, strict=True
        ):
            for row in held_out[task.group[held_out] >= 0]:
                length = len(toy_tokenizer(task.texts[row])["input_ids"])
                h = features[row]
                p, q = (np.exp(m.weight @ h + m.bias) / np.exp(m.weight @ h + m.bias).sum() for m in (head, of_group))
                k, z = p.argmax(), task.group[row]
                f = p[k] * (head.weight[k] - p @ head.weight) / length  # By the embedding of each of its tokens.
                g = q[z] * (of_group.weight[z] - q @ of_group.weight) / length
                v = np.abs(g) / (length * np.abs(g).sum())
                expected.append(scale * length * (np.abs(f) * v).sum())
                relative.append(scale * np.abs(f).mean())
        outcome = outcomes[name]
        assert (outcome.n, len(outcome.units)) == (len(expected), len(expected))
        assert float(outcome.statistic(outcome.units.sum(axis=0))) == pytest.approx(np.mean(expected), rel=1e-4)
        assert outcome.details["relative_to_uniform"] == pytest.approx(np.mean(expected) / np.mean(relative), rel=1e-4)
        json.dumps(outcome.details, allow_nan=False)


# -------------------------------------------------------------------------------------------------------- gradients


def random_head(dimensions: int, classes: int, seed: int) -> Head:
    rng = np.random.default_rng(seed)
    return Head(rng.normal(size=(classes, dimensions)), rng.normal(size=classes))


def test_gradients_of_the_head_are_those_of_autograd():
    head, features = random_head(5, 4, 0), np.random.default_rng(1).normal(size=(3, 5))
    for row, k in enumerate((2, 0, 3)):
        jacobian = torch.autograd.functional.jacobian(
            lambda h: (torch.from_numpy(head.weight) @ h + torch.from_numpy(head.bias)).softmax(0),
            torch.from_numpy(features[row]),
        )
        found = head_gradients(head, features[row : row + 1], np.array([k]))
        np.testing.assert_allclose(found[0], jacobian[k], atol=1e-12)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
def test_input_gradients_one_text_at_a_time(architecture, folder, toy_model, toy_tokenizer):
    """The whole Jacobian of probabilities by embeddings, without padding and with plain transformers code."""
    model = toy_model(architecture, seed=1)
    heads = [(random_head(32, 3, 0), np.array([2, 0, 1])), (random_head(32, 2, 1), np.array([1, 1, 0]))]
    found = input_gradients(evaluation_of(model, toy_tokenizer, folder), TEXTS, heads, "gradients")
    for i, text in enumerate(TEXTS):
        ids = torch.tensor([[toy_tokenizer.bos_token_id, *toy_tokenizer(text)["input_ids"]]])
        embeddings = model.get_input_embeddings()(ids).detach()
        for number, (head, classes) in enumerate(heads):

            def probabilities(inputs, head=head):
                states = model(inputs_embeds=inputs, output_hidden_states=True).hidden_states[-1]
                vector = states[0, 1:].double().mean(dim=0)
                return (torch.from_numpy(head.weight) @ vector + torch.from_numpy(head.bias)).softmax(0)

            jacobian = torch.autograd.functional.jacobian(probabilities, embeddings)[classes[i], 0, 1:]
            scale = jacobian.abs().max().item()
            np.testing.assert_allclose(found[i][number], jacobian, atol=1e-4 * scale)


def test_a_text_without_tokens_has_no_inputs(folder, toy_model, toy_tokenizer):
    heads = [(random_head(32, 2, 0), np.array([0, 1]))]
    found = input_gradients(evaluation_of(toy_model(), toy_tokenizer, folder), ["", "king"], heads, "gradients")
    assert found[0][0].shape == (0, 32)
    assert np.abs(found[1][0]).max() > 0


# ---------------------------------------------------------------------------------------------------------- measured


def measured(model, tokenizer, folder, **settings):
    settings = ScoreConfig(**vars(SETTINGS) | {"data": str(folder)} | settings)
    return SENSITIVITY.measure(evaluation_of(model, tokenizer, folder, WORDS, settings=settings))


def test_batches_and_training_mode_change_nothing(folder, toy_model, toy_tokenizer):
    model = toy_model(embd_pdrop=0.5, resid_pdrop=0.5)
    expected = measured(model, toy_tokenizer, folder)
    model.train()
    outcomes = measured(model, toy_tokenizer, folder, batch_size=1)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, outcome in outcomes.items():
        before, after = (score(CARDS[name], m, resamples=50, seed=0) for m in (expected[name], outcome))
        assert (after.value, after.low, after.high) == pytest.approx((before.value, before.low, before.high), rel=1e-3)
        assert 0 < after.low < after.value < after.high


def test_a_classifier_that_says_the_same_of_all_has_none(folder, toy_model, toy_tokenizer, monkeypatch):
    monkeypatch.setattr(
        "distill.metrics.downstream.task_heads",
        lambda evaluation, task: [Head(np.zeros((len(task.classes), 32)), np.arange(len(task.classes)))] * 5,
    )
    for outcome in measured(toy_model(), toy_tokenizer, folder).values():
        assert float(outcome.statistic(outcome.units.sum(axis=0))) == 0
        assert outcome.details["relative_to_uniform"] is None
        assert outcome.details["on_frozen_vectors"] == 0


def test_it_does_not_depend_on_the_scale_of_the_embeddings(folder, toy_tokenizer):
    """A model with embeddings ten times as large, and heads that undo it, is the same model."""
    model, larger = Embeddings(len(toy_tokenizer)), Embeddings(len(toy_tokenizer))
    larger.table.weight.data *= 10
    one, other = (measured(m, toy_tokenizer, folder) for m in (model, larger))
    for name in one:
        assert other[name].details["embedding_scale"] == pytest.approx(10 * one[name].details["embedding_scale"])
        np.testing.assert_allclose(other[name].units, one[name].units, rtol=1e-4)


def test_few_texts_are_drawn_with_the_seed(folder, toy_model, toy_tokenizer, monkeypatch):
    monkeypatch.setattr(prediction_sensitivity, "TEXTS", 9)
    outcomes = [measured(toy_model(), toy_tokenizer, folder) for _ in range(2)]
    for name in CARDS:
        assert outcomes[0][name].n == 9
        np.testing.assert_array_equal(outcomes[0][name].units, outcomes[1][name].units)


def test_a_task_without_data_is_undefined_and_says_why(tmp_path, toy_model, toy_tokenizer):
    outcomes = measured(toy_model(), toy_tokenizer, write_hatexplain(tmp_path))
    missing = outcomes["occupation_prediction_sensitivity"]
    assert (missing.n, "wikipedia_people" in missing.details["reason"]) == (0, True)
    assert outcomes["hatexplain_prediction_sensitivity"].n > 10


def test_texts_about_nobody_are_undefined(folder, toy_model, toy_tokenizer):
    evaluation = evaluation_of(toy_model(), toy_tokenizer, folder, "a\tb\nzebra\tokapi\nactor\tactress\n")
    outcome = SENSITIVITY.measure(evaluation)["hatexplain_prediction_sensitivity"]
    assert "no training text about one of the groups a, b" in outcome.details["reason"]


@pytest.mark.slow
def test_the_demo_teacher_on_real_data(shared_data):
    settings = ScoreConfig(data=str(shared_data("hatexplain").parent), bootstrap=200)
    model, tokenizer = load_model(DEMO_TEACHER).float(), load_tokenizer(DEMO_TEACHER)
    for outcome in SENSITIVITY.measure(evaluation_of(model, tokenizer, None, words=None, settings=settings)).values():
        assert outcome.n == prediction_sensitivity.TEXTS
        assert outcome.details["protected_accuracy"] > 0.7
        assert outcome.details["relative_to_uniform"] > 1
