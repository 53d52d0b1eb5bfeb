"""Toy documents, a teacher and a student for private steps; the same gradients by autograd, document by document."""

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from shared import NEUTRAL_TEXT, TOY_ARCHITECTURES, TOY_TEXT
from torch import Tensor

from distill.data.batches import Collator, documents_of
from distill.data.blocks import PairBlock
from distill.data.counts import PackingCounts
from distill.data.packing import pack
from distill.models.architecture import hidden_states, vocab_size
from distill.models.student import make_student, train_tokenizer
from distill.objective.chunks import IGNORED, Positions
from distill.objective.kd_loss import ModelView, reference_loss
from distill.objective.listed_tokens import ListedTokens
from distill.objective.logit_ops import build_role_maps
from distill.objective.settings import LossSettings
from distill.privacy.clipping import Rows, layers_of
from distill.recipe import StudentConfig
from distill.text.counterfactual import Swapper
from distill.text.role_map import token_roles
from distill.text.wordlist import load_wordlist
from distill.training.private_trainer import Documents, add_clipped_gradients
from distill.training.student_loss import attach_loss

LENGTH = 48


class Toy(NamedTuple):
    """What a private step takes: blocks of a document each, the maps and number of groups, models of one family."""

    blocks: list[PairBlock]
    groups: int
    role_maps: list[Any]
    student: Any
    teacher: Any


_LISTS = {
    2: "male\tfemale\nhe\tshe\nhis\ther\nman\twoman\nking\tqueen\n",
    3: "male\tfemale\tneutral\nhe\tshe\tthey\nhis\ther\ttheir\nman\twoman\tperson\nking\tqueen\tmonarch\n",
}


@cache
def _text(groups: int) -> tuple[Any, list[PairBlock], list[Any]]:
    """A tokenizer, blocks of a document each, some without edits, and the maps of the groups."""
    text = NEUTRAL_TEXT if groups == 3 else TOY_TEXT
    tokenizer = train_tokenizer([text] * 4, 300)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "short.tsv")
        path.write_text(_LISTS[max(groups, 2)], encoding="utf-8")
        wordlist = load_wordlist(path)
    sentences = [part.strip() + "." for part in text.split(".") if part.strip()]
    documents = [" ".join(sentences[n : n + 1 + n % 2]) for n in range(4)] + ["Nothing happened at all."]
    swapper = Swapper(wordlist) if groups > 1 else None
    found = pack(documents, tokenizer, swapper, LENGTH, PackingCounts(), one_document=True)
    blocks = [PairBlock(b.input_ids, b.labels, b.boundaries, b.position_ids, n) for n, b in enumerate(found)]
    roles = token_roles(wordlist, tokenizer, vocab_size(tokenizer))
    return tokenizer, blocks, build_role_maps(roles.edges, roles.vocab_size)[: groups - 1]


def make_toy(architecture: str, groups: int, dtype: torch.dtype = torch.float64) -> Toy:
    """Documents, some without edits, and two models of random weights; `groups` is 1, 2 or 3."""
    tokenizer, blocks, role_maps = _text(groups)
    models = []
    for seed, layers in ((1, 2), (2, 3)):
        keys = {"model_type": architecture, **TOY_ARCHITECTURES[architecture]}
        keys |= {"n_layer": layers} if architecture == "gpt2" else {"num_hidden_layers": layers}
        if architecture == "gpt2":
            keys |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        torch.manual_seed(seed)
        models.append(make_student(StudentConfig(init="config", config=keys), None, tokenizer, None).to(dtype))
    student, teacher = models
    with torch.no_grad():  # or else all predictions are alike, and so are the gradients
        for parameter in [*student.parameters(), *teacher.parameters()]:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    attach_loss(student)
    return Toy(blocks, groups, role_maps, student, teacher.eval().requires_grad_(False))


def freeze_head(student: Any) -> None:
    """What `privacy.weights: body` leaves out."""
    for module in (student.get_input_embeddings(), student.get_output_embeddings()):
        module.requires_grad_(False)


def settings_of(toy: Toy) -> LossSettings:
    """A loss of all parts, with an operation on the views where there are several."""
    return LossSettings(kd=1.0, ce=0.5, hidden=0.2, listed=0.3, op="expmean" if toy.groups > 1 else "none")


def private_gradients(toy: Toy, blocks: Sequence[PairBlock], clip: float, half: bool = False) -> dict[str, Tensor]:
    """Clipped sums by book-keeping, by the names of the weights; they stay in `grad` too. `half`: under autocast."""
    inputs = Collator(toy.groups, augment=toy.groups > 1, trim=True)(blocks)
    rows = inputs["student_rows"]

    def forward(clipped_head: Any) -> tuple[Any, None]:
        hidden = hidden_states(toy.teacher, inputs["input_ids"], inputs["position_ids"])
        teacher = ModelView(hidden.flatten(0, 1), toy.teacher.get_output_embeddings().weight)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            parts = toy.student(
                input_ids=inputs["input_ids"][:rows],
                position_ids=inputs["position_ids"][:rows],
                labels=inputs["labels"][:rows],
                settings=settings_of(toy),
                teacher=teacher,
                partner=inputs["partner"][:, :rows] if toy.groups > 1 else None,
                role_maps=toy.role_maps or None,
                clipped_head=clipped_head,
                listed=ListedTokens.of(toy.role_maps),
            )
        return parts, None

    layers = layers_of(toy.student, left_out=[toy.student.get_output_embeddings()])
    documents = Documents(Rows(*documents_of(inputs)), inputs["labels"][:rows])
    add_clipped_gradients(toy.student, layers, forward, documents, clip)
    return {name: p.grad.clone() for name, p in toy.student.named_parameters() if p.grad is not None}


def naive_gradients(toy: Toy, block: PairBlock) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One document's gradients by autograd through the reference loss: those by way of the body, and by the head."""
    inputs = Collator(toy.groups, augment=toy.groups > 1)([block])
    rows = inputs["student_rows"]
    hidden = hidden_states(toy.student, inputs["input_ids"][:rows], inputs["position_ids"][:rows])
    module = toy.student.get_output_embeddings()
    head = module.weight.detach().clone().requires_grad_()
    with torch.no_grad():
        seen = hidden_states(toy.teacher, inputs["input_ids"], inputs["position_ids"]).flatten(0, 1)
    labels = inputs["labels"][:rows].flatten()
    parts = reference_loss(
        ModelView(hidden.flatten(0, 1), head),
        ModelView(seen, toy.teacher.get_output_embeddings().weight),
        Positions(
            labels, torch.arange(len(labels)), inputs["partner"][:, :rows].flatten(1) if toy.groups > 1 else None
        ),
        settings_of(toy),
        toy.role_maps or None,
        listed=ListedTokens.of(toy.role_maps),
    )
    loss = parts.total / (labels != IGNORED).sum()
    names = [name for name, p in toy.student.named_parameters() if p.requires_grad]
    weights = [dict(toy.student.named_parameters())[name] for name in names]
    *body, of_head = torch.autograd.grad(loss, [*weights, head], allow_unused=True)
    of_body = {name: g for name, g in zip(names, body, strict=True) if g is not None}
    head_names = [name for name, p in toy.student.named_parameters() if p is module.weight and p.requires_grad]
    return of_body, dict.fromkeys(head_names, of_head)


def norm(gradients: dict[str, Tensor]) -> float:
    """That of all tensors together."""
    return float(np.sqrt(sum(float(g.square().sum()) for g in gradients.values())))


def naive_clipped(toy: Toy, blocks: Sequence[PairBlock], clip: float) -> dict[str, Tensor]:
    """The clipped sum of several documents, one after the other."""
    total: dict[str, Tensor] = {}
    for block in blocks:
        parts = naive_gradients(toy, block)
        with_head = bool(parts[1])
        for part in parts:
            factor = min(1.0, (clip / 2 if with_head else clip) / max(norm(part), 1e-30))
            for name, gradient in part.items():
                total[name] = total.get(name, 0) + factor * gradient
    return total
