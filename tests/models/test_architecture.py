"""Where a model is put, and the mode in which it is measured."""

import pytest
import torch

from distill.models.architecture import default_device, evaluating


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_evaluated_and_given_back_as_it_came(training):
    model = torch.nn.Sequential(torch.nn.Dropout(0.5)).train(training)
    with evaluating(model):
        assert not model.training and not model[0].training
    assert model.training == model[0].training == training
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert model.training == training


@pytest.mark.parametrize(("there", "expected"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_used_where_there_is_one(there, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert default_device() == expected
