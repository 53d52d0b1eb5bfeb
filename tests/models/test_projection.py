"""Directions that tell the groups apart, taken out of a model: against the projection of its hidden states by hand."""

import pytest
import torch
from architectures import ARCHITECTURES
from transformers import AutoConfig, AutoModelForCausalLM

from distill.base.errors import UserError
from distill.models.architecture import head, hidden_states
from distill.models.projection import group_directions, project_out

IDS = torch.tensor([[5, 9, 6, 7], [5, 11, 6, 7], [3, 9, 2, 4], [3, 11, 2, 4]])
POSITIONS = torch.arange(4).expand(4, 4)
PAIRS = torch.tensor([[1, 2, 3, 9, 10, 11], [5, 6, 7, 13, 14, 15]])  # behind the word that is another


def projector(directions):
    return torch.eye(len(directions)) - directions.float() @ directions.float().T


@pytest.fixture(params=["gpt2", "llama", "gemma2"])
def model(request, toy_model):
    """Of a tied head, of a head of its own, and of one that is tied, scaled and capped."""
    if request.param != "gemma2":
        return toy_model(request.param, seed=4)
    torch.manual_seed(4)
    config = AutoConfig.for_model("gemma2", vocab_size=64, **ARCHITECTURES["gemma2"])
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def directions(model):
    return group_directions(model, [(IDS[:2], POSITIONS[:2], PAIRS[:, :3]), (IDS[2:], POSITIONS[2:], PAIRS[:, :3])], 2)


def test_they_are_the_principal_ones_of_the_differences(model, directions):
    with torch.no_grad():
        hidden = hidden_states(model, IDS, POSITIONS).flatten(0, 1)
    differences = hidden[PAIRS[0]] - hidden[PAIRS[1]]
    right = torch.linalg.svd(differences.double()).Vh[:2].T
    torch.testing.assert_close((right.T @ directions).abs(), torch.eye(2, dtype=torch.double), atol=1e-4, rtol=0)
    torch.testing.assert_close(directions.T @ directions, torch.eye(2, dtype=torch.double))


def test_logits_are_those_of_projected_hidden_states_and_so_are_the_checkpoints(model, directions, tmp_path):
    matrix = projector(directions)
    torch.testing.assert_close(matrix, matrix.T)
    torch.testing.assert_close(matrix @ matrix, matrix)
    with torch.no_grad():
        before = model(input_ids=IDS).logits
        hidden, (weight, bias, scale, cap) = hidden_states(model, IDS, POSITIONS), head(model)
        want = torch.nn.functional.linear(hidden @ matrix, weight, bias) * scale
        want = want if cap is None else cap * torch.tanh(want / cap)
        embedding = model.get_input_embeddings().weight.clone()
        project_out(model, directions)
        assert torch.equal(model.get_input_embeddings().weight, embedding)
        torch.testing.assert_close(model(input_ids=IDS).logits, want, atol=1e-5, rtol=1e-4)
        assert (want - before).abs().max() > 1e-3
        model.save_pretrained(tmp_path / "student")
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
        torch.testing.assert_close(loaded(input_ids=IDS).logits, want, atol=1e-5, rtol=1e-4)


def test_other_directions_are_left_alone(model, directions):
    other = torch.linalg.qr(torch.cat([directions, torch.eye(len(directions))[:, :3].double()], dim=1)).Q[:, 2:]
    weight = model.get_output_embeddings().weight.detach().double()
    project_out(model, directions)
    after = model.get_output_embeddings().weight.detach().double()
    torch.testing.assert_close(after @ other, weight @ other, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(after @ directions, torch.zeros(len(weight), 2).double(), atol=1e-6, rtol=0)


def test_directions_that_are_not_there_are_the_users_mistake(toy_model):
    model = toy_model(seed=4)
    with pytest.raises(UserError, match="no block with a counterfactual"):
        group_directions(model, [], 1)
    same = (IDS[[0, 0]], POSITIONS[:2], PAIRS[:, :3])
    with pytest.raises(UserError, match="no block with a counterfactual"):
        group_directions(model, [same], 1)
    width = model.config.hidden_size
    with pytest.raises(UserError, match=f"is {width}, but the student's hidden states have {width}"):
        group_directions(model, [(IDS[:2], POSITIONS[:2], PAIRS[:, :3])], width)
