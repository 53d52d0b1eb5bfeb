"""Directions that tell the groups apart, taken out of a model's last hidden states: SentenceDebias, and its checkpoint.

Liang et al. 2020 (ACL, arXiv 2007.08100): what a model makes of sentences that differ in the words of a group alone
differs along a few directions, the first principal ones of these differences. A projection takes them out of every
sentence. Here the sentences are the aligned positions of texts and their counterfactuals, and what is projected is what
the output head sees. Logits are linear in it, so that

    (h (I - P)) W^T = h (W (I - P))^T,   P = V V^T for orthonormal directions V (D, k)

and the head alone changes: the result is an ordinary checkpoint whose head is not its embedding any more.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.base.errors import UserError
from distill.models.architecture import evaluating, hidden_states, tell_own_head


@torch.no_grad()
def group_directions(model: PreTrainedModel, batches: Iterable[tuple[Tensor, Tensor, Tensor]], count: int) -> Tensor:
    """The directions along which a model tells the groups apart, (D, count), orthonormal, the first one first.

    They are the principal ones of the differences without their mean taken off: which of two texts is the
    counterfactual means nothing, so the differences come with both signs, and their mean is 0.

    Args:
        model: Its last hidden states are looked at, without dropout.
        batches: (R, T) token ids, (R, T) positions, and (2, P) which of the R * T positions are aligned.
        count: How many, fewer than the model is wide.

    Raises:
        UserError: there are no such directions, or not as many.
    """
    moments: Tensor | None = None
    with evaluating(model):
        for ids, positions, pairs in batches:
            hidden = hidden_states(model, ids, positions).flatten(0, -2)
            difference = (hidden[pairs[0]] - hidden[pairs[1]]).double()
            product = difference.T @ difference
            moments = product if moments is None else moments + product
    if moments is None or not moments.any():
        raise UserError(
            "student.remove_directions: the training text has no block with a counterfactual from which they could be "
            "learned; check wordlist and corpus, or set it to 0"
        )
    if count >= len(moments):
        raise UserError(
            f"student.remove_directions is {count}, but the student's hidden states have {len(moments)} directions in "
            "all; lower it"
        )
    return torch.linalg.eigh(moments).eigenvectors.flip(1)[:, :count]


@torch.no_grad()
def project_out(model: PreTrainedModel, directions: Tensor) -> None:
    """Let a model's output head see nothing of some directions, (D, k), orthonormal. It is not tied any more then.

    Its token embedding stays what it is.
    """
    head = model.get_output_embeddings()
    weight = head.weight.detach().double()
    directions = directions.to(weight)
    projected = weight - (weight @ directions) @ directions.T
    head.weight = nn.Parameter(projected.to(head.weight.dtype), requires_grad=head.weight.requires_grad)
    tell_own_head(model)
