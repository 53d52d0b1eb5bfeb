"""The loss inside the student's forward."""

import pytest
import torch
from toy_trainer import make_trainer, toy_batch

from distill.objective.kd_loss import IGNORED
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
