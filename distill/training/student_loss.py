"""The loss inside the student's forward, where DDP and FSDP see it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from distill.models.architecture import head, hidden_states, view_of
from distill.models.document_attention import Documents
from distill.objective import kd_loss
from distill.objective.chunks import Plan, Positions
from distill.objective.clipped_head import ClippedHead
from distill.objective.listed_tokens import ListedTokens
from distill.objective.logit_ops import RoleMap
from distill.objective.pairing import pairing_loss
from distill.objective.settings import LossSettings

PROJECTION = "distill_projection"


def _embeds_with(embedding: nn.Module, weight: Tensor) -> bool:
    """Whether the embedding does no more than look up rows of the head's weight, and a gradient is wanted.

    Hooks (NEFTune, FSDP1) and torch.compile get the embedding as it is; so does FSDP2, which makes the weight whole
    only when the embedding is called.
    """
    return (
        type(embedding) is nn.Embedding
        and embedding.weight is weight
        and not isinstance(weight, DTensor)
        and embedding.padding_idx is embedding.max_norm is None
        and not embedding.scale_grad_by_freq
        and not (embedding._forward_hooks or embedding._forward_pre_hooks)
        and weight.requires_grad
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def attach_loss(student: PreTrainedModel, vocab: int | None = None) -> None:
    """Let `student(..., labels=..., settings=...)` return the loss instead of logits.

    The loss has to run inside the forward of the module that DDP or FSDP wraps, or else the gradients of the output
    head are neither gathered nor reduced. Called without `settings`, the student answers as ever.

    Args:
        student: Changed in place.
        vocab: V, the tokens that student and teacher share; None: all rows of the head.
    """
    plain_forward = student.forward

    def forward(
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        settings: LossSettings | None = None,
        teacher: kd_loss.ModelView | None = None,
        partner: Tensor | None = None,
        role_maps: Sequence[RoleMap] | None = None,
        plan: Plan | None = None,
        documents: Documents | None = None,
        clipped_head: ClippedHead | None = None,
        listed: ListedTokens | None = None,
        pairs: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if settings is None:
            return plain_forward(input_ids=input_ids, position_ids=position_ids, labels=labels, **kwargs)
        assert input_ids is not None and position_ids is not None and labels is not None  # `compute_loss` gives all
        head_gradient: list[Tensor] | None = None
        embedded = None
        weight = head(student).weight
        if _embeds_with(student.get_input_embeddings(), weight):
            head_gradient = []
            embedded = kd_loss.tied_embedding(input_ids, weight, head_gradient)
        hidden = hidden_states(student, input_ids, position_ids, embedded, documents)
        view = view_of(student, hidden, vocab)  # under FSDP2, the head is whole only now
        projection = getattr(student, PROJECTION, None)
        positions = Positions.of_first_rows(labels, partner)
        parts = kd_loss.fused_loss(
            view,
            teacher,
            positions,
            settings,
            role_maps,
            projection=projection.weight.T if projection is not None else None,
            head_gradient=head_gradient,
            plan=plan,
            clipped_head=clipped_head,
            listed=listed,
        )
        if settings.pairing:
            pairing = pairing_loss(view, positions, settings, pairs)
            parts = parts._replace(total=parts.total + settings.pairing * pairing, pairing=pairing.detach())
        return parts

    student.forward = forward
