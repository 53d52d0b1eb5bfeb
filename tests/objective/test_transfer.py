"""Copies that nobody waits for: what is asked of a tensor on its way to a GPU, and what a GPU finds."""

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.models.document_attention import Documents
from distill.objective.transfer import copied_to
from distill.privacy.clipping import Rows


class Asked:
    """In the place of a tensor: notes what it is asked for."""

    def __init__(self, where: str) -> None:
        self.device, self.asked = torch.device(where), []

    def pin_memory(self) -> "Asked":
        self.asked.append("pinned")
        return self

    def to(self, device: torch.device | str, non_blocking: bool) -> "Asked":
        self.asked.append((torch.device(device).type, non_blocking))
        return self


@pytest.mark.parametrize(
    ("where", "to", "asked"),
    [
        ("cpu", "cuda:1", ["pinned", ("cuda", True)]),
        ("cpu", torch.device("cuda"), ["pinned", ("cuda", True)]),
        ("cuda:0", "cuda:0", [("cuda", True)]),  # memory of a GPU cannot be pinned
        ("cpu", "cpu", [("cpu", True)]),
    ],
)
def test_what_a_gpu_fetches_is_pinned_and_nothing_else(where, to, asked):
    tensor = Asked(where)
    assert copied_to(tensor, to) is tensor and tensor.asked == asked


def test_on_a_cpu_a_tensor_stays_where_it_is():
    tensor = torch.arange(5)
    assert copied_to(tensor, "cpu") is tensor


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_copy_from_pinned_memory_alone(monkeypatch):
    pinned, plain = [], Tensor.to

    def to(tensor, *args, **kwargs):
        moved = plain(tensor, *args, **kwargs)
        if moved.is_cuda and not tensor.is_cuda:
            pinned.append(tensor.is_pinned())
        return moved

    documents = Documents.of(np.array([[0, 1, 0], [0, 1, 2]])).to("cuda")
    monkeypatch.setattr(Tensor, "to", to)
    assert documents.of_rows(np.array([1])).starts.tolist() == [0, 3]
    rows = Rows(torch.tensor([0, 1, 0]), 2, "cuda")
    assert rows.documents.tolist() == [0, 1, 0]
    assert pinned == [True] * 6
