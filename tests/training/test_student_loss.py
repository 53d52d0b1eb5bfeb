"""The loss inside the student's forward."""

import pytest
import torch
from toy_trainer import make_trainer, toy_batch

from distill.objective.chunks import IGNORED
from distill.recipe import LossConfig, TargetConfig


@pytest.fixture
def batch(toy_tokenizer):
    return toy_batch(toy_tokenizer)


def test_tied_heads_get_both_gradients(tmp_path, toy_model, batch):
    """The fused gradient of GPT-2's tied head adds to the embedding's, as autograd's does."""
    inputs, blocks = batch
    teacher = toy_model(seed=2)
    gradients = []
    for fused in (True, False):
        student = toy_model(seed=1)
        assert student.get_output_embeddings().weight is student.get_input_embeddings().weight
        if fused:
            trainer = make_trainer(tmp_path, student, teacher, blocks, TargetConfig(), LossConfig(kd=0.0, ce=1.0))
            trainer.compute_loss(student, {**inputs, "student_rows": len(blocks)}).backward()
        else:
            rows = slice(len(blocks))
            logits = student(
                input_ids=inputs["input_ids"][rows], position_ids=inputs["position_ids"][rows], use_cache=False
            ).logits
            labels = inputs["labels"][rows]
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED).backward()
        gradients.append(student.get_input_embeddings().weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_the_pairing_is_added_to_the_rest_of_the_loss(tmp_path, toy_model, batch):
    """The sum over aligned positions of both views, from the student's own logits, with autograd's gradients."""
    inputs, blocks = batch
    target = TargetConfig(augment=True)
    found = {}
    for weight in (0.0, 0.5):
        student = toy_model(seed=1, initializer_range=0.3)
        loss = LossConfig(kd=0.0, ce=1.0, pairing=weight)
        trainer = make_trainer(tmp_path, student, None, blocks, target, loss)
        value, parts = trainer.compute_loss(student, inputs, return_outputs=True)
        value.backward()
        found[weight] = parts, student.get_input_embeddings().weight.grad
    assert found[0.0][0].pairing == 0
    student = toy_model(seed=1, initializer_range=0.3)
    logits = student(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False).logits
    log_q = logits.flatten(0, 1).log_softmax(-1)
    partner = inputs["partner"].flatten()
    kept = (inputs["labels"].flatten() != IGNORED) & (partner >= 0)
    own, other = log_q[kept], log_q[partner[kept]]
    pairing = (own.exp() * (own - other)).sum()
    (0.5 * pairing / found[0.5][0].count).backward()
    assert pairing > 1
    torch.testing.assert_close(found[0.5][0].pairing, pairing.detach(), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found[0.5][0].total, found[0.0][0].total + 0.5 * pairing.detach(), atol=1e-2, rtol=1e-4)
    gradient = student.get_input_embeddings().weight.grad
    torch.testing.assert_close(found[0.5][1], found[0.0][1] + gradient, atol=1e-5, rtol=1e-3)
