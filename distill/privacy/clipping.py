"""Per-document gradients by book-keeping: their norms and their clipped sum, from one backward pass.

A document's gradient of a layer's weight is a sum over its tokens of products of what the layer got and of the gradient
of what it gave. So both are kept while the model goes forward and backward once, without gradients of the weights.
Then each layer's rule makes of them the squared norm of every document, without a copy of the weights for each, and,
once all norms are known, the sum over documents of their gradients, each weighted down to the clip (Bu et al. 2023,
arXiv 2210.00038).

A text and its counterfactuals are one document here: their rows of a batch make one gradient, with one norm.

Shapes: R rows of T tokens, B documents, V rows of a document.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from distill.base.errors import UserError
from distill.models.architecture import evaluating, hidden_states
from distill.objective.clipped_head import factors, pairs_rounding
from distill.objective.transfer import copied_to

_AT_ONCE = 2**22  # numbers of per-document gradients, or of products of tokens, that are held at one time


class Rows:
    """Which documents the R rows of a batch belong to.

    Args:
        documents: (R,) int64, from 0 to B - 1, each at least once; on the CPU, which answers at once.
        count: B.
        device: Where the rows are.
    """

    def __init__(self, documents: Tensor, count: int, device: torch.device | str = "cpu") -> None:
        self.documents, self.count = copied_to(documents, device), count
        views = torch.bincount(documents, minlength=count)
        order = documents.argsort(stable=True)
        ends = views.cumsum(0)
        # Documents with equally many rows are multiplied together.
        self._groups: list[tuple[Tensor, Tensor]] = []
        for number in views.unique().tolist():
            of_number = (views == number).nonzero().squeeze(1)
            places = order[(ends - views)[of_number, None] + torch.arange(number)]
            self._groups.append((copied_to(of_number, device), copied_to(places, device)))

    def side_by_side(self, *values: Tensor, most: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Some documents (b,) and their parts of (R, T, D) values as (b, V T, D), `most` documents at a time."""
        for documents, rows in self._groups:
            for start in range(0, len(documents), most):
                there = slice(start, start + most)
                yield documents[there], [value[rows[there]].flatten(1, 2) for value in values]

    def summed(self, values: Tensor) -> Tensor:
        """(R, D) values -> (B, D), summed over the rows of each document."""
        return values.new_zeros(self.count, *values.shape[1:]).index_add_(0, self.documents, values)


class Made(NamedTuple):
    """What a rule makes of a layer's inputs and output gradients.

    squared_norms: (B,) of the documents' gradients of the layer's weights.
    weighted: (R,) weights of rows -> the weighted sums over rows, by the name of each weight.
    """

    squared_norms: Tensor
    weighted: Callable[[Tensor], dict[str, Tensor]]


Rule = Callable[[Any, Tensor, Tensor, Rows], Made]


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.dtype.itemsize < 4 else value


def _product(layer: Any, inputs: Tensor, gradient: Tensor, rows: Rows, transposed: bool) -> Made:
    """A weight (in, out), transposed (out, in), by which inputs are multiplied, and a bias (out,) or None."""
    a, g = _wide(inputs).flatten(1, -2), _wide(gradient).flatten(1, -2)
    squared = _squared_norms_of_products(a, g, rows)
    if layer.bias is not None:
        squared = squared + rows.summed(g.sum(dim=1)).square().sum(dim=1)

    def weighted(weights: Tensor) -> dict[str, Tensor]:
        scaled = (g * weights[:, None, None]).flatten(0, 1)
        flat = a.flatten(0, 1)
        sums = {"weight": scaled.T @ flat if transposed else flat.T @ scaled}
        return sums if layer.bias is None else sums | {"bias": scaled.sum(dim=0)}

    return Made(squared, weighted)


def _squared_norms_of_products(a: Tensor, g: Tensor, rows: Rows) -> Tensor:
    """(B,) squared norms of the sums over a document's tokens of the outer products of (R, T, in) and (R, T, out).

    ||A^T G||^2 = <A A^T, G G^T>: the products of all pairs of tokens are the smaller tensors where a document has few.
    """
    squared = a.new_zeros(rows.count)
    tokens, wide, out = a.shape[1] * len(a) // rows.count, a.shape[2], g.shape[2]
    by_pairs = tokens * (wide + out) < wide * out
    most = max(1, _AT_ONCE // (2 * tokens**2 if by_pairs else wide * out))
    for documents, (of_a, of_g) in rows.side_by_side(a, g, most=most):
        if by_pairs:
            pairs = torch.bmm(of_a, of_a.transpose(1, 2)).mul_(torch.bmm(of_g, of_g.transpose(1, 2)))
            squared[documents] = pairs.sum(dim=(1, 2)) + pairs_rounding(of_a, of_g)
        else:
            squared[documents] = torch.bmm(of_a.transpose(1, 2), of_g).flatten(1).square_().sum(dim=1)
    return squared


def _linear(layer: nn.Linear, inputs: Tensor, gradient: Tensor, rows: Rows) -> Made:
    return _product(layer, inputs, gradient, rows, transposed=True)


def _conv1d(layer: Conv1D, inputs: Tensor, gradient: Tensor, rows: Rows) -> Made:
    return _product(layer, inputs, gradient, rows, transposed=False)


def _embedding(layer: nn.Embedding, inputs: Tensor, gradient: Tensor, rows: Rows) -> Made:
    g = _wide(gradient)
    if layer.padding_idx is not None:
        g = g * (inputs != layer.padding_idx).unsqueeze(-1)
    # A document's gradient of an embedding has as many rows as it has different tokens: at most one for each token, and
    # so many are made, of which the last stay empty. How many are needed, a GPU would have to be waited for.
    keys = (rows.documents[:, None] * layer.num_embeddings + inputs).flatten()
    keys, order = keys.sort()
    which = torch.cat([keys.new_zeros(1), (keys[1:] != keys[:-1]).cumsum(0)])
    document = torch.zeros_like(keys).scatter_(0, which, keys // layer.num_embeddings)
    of_token = torch.empty_like(which).scatter_(0, order, which)
    sums = g.new_zeros(len(keys), g.shape[-1]).index_add_(0, of_token, g.flatten(0, 1))
    squared = g.new_zeros(rows.count).index_add_(0, document, sums.square_().sum(dim=1))

    def weighted(weights: Tensor) -> dict[str, Tensor]:
        total = g.new_zeros(layer.weight.shape)
        return {"weight": total.index_add_(0, inputs.flatten(), (g * weights[:, None, None]).flatten(0, 1))}

    return Made(squared, weighted)


def _scale(layer: Any, normalised: Tensor, gradient: Tensor, rows: Rows) -> Made:
    """A weight (D,) by which normalised inputs are multiplied one by one, and a bias (D,) or None."""
    of_rows = {"weight": (normalised * _wide(gradient)).flatten(1, -2).sum(dim=1)}
    if getattr(layer, "bias", None) is not None:
        of_rows["bias"] = _wide(gradient).flatten(1, -2).sum(dim=1)
    squared = sum((rows.summed(value).square().sum(dim=1) for value in of_rows.values()), gradient.new_zeros(()))
    return Made(squared, lambda weights: {name: weights @ value for name, value in of_rows.items()})


def _layer_norm(layer: nn.LayerNorm, inputs: Tensor, gradient: Tensor, rows: Rows) -> Made:
    return _scale(layer, F.layer_norm(_wide(inputs), layer.normalized_shape, eps=layer.eps), gradient, rows)


def _rms_norm(layer: nn.Module, inputs: Tensor, gradient: Tensor, rows: Rows) -> Made:
    return _scale(layer, _root_mean_square(layer, inputs), gradient, rows)


def _root_mean_square(layer: Any, inputs: Tensor) -> Tensor:
    """Inputs over the root of their mean square along the last dimension."""
    x = _wide(inputs)
    eps = next((e for name in ("variance_epsilon", "eps") if (e := getattr(layer, name, None)) is not None), None)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)


@torch.no_grad()
def _is_rms_norm(layer: nn.Module) -> bool:
    """Whether a layer multiplies inputs, over their root mean square, by its weight or by one more than that.

    Tried on random numbers, as each family of models has a class of its own for it.
    """
    weight = getattr(layer, "weight", None)
    if "RMSNorm" not in type(layer).__name__ or [n for n, _ in layer.named_parameters()] != ["weight"]:
        return False
    if not isinstance(weight, Tensor) or weight.dim() != 1:
        return False
    x = torch.randn(2, 3, len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
    expected = _root_mean_square(layer, x)
    given = layer(x)
    return any(torch.allclose(given, expected * (weight + more), rtol=1e-3, atol=1e-4) for more in (0, 1))


#: Layers, by their very type: what derives from one may do something else.
RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    Conv1D: _conv1d,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
}


def rule_of(layer: nn.Module) -> Rule | None:
    """The rule for a layer; None where there is none."""
    if _is_rms_norm(layer):
        return _rms_norm
    if isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse):
        return None
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) != 1:
        return None
    return RULES.get(type(layer))


@dataclass(frozen=True)
class Layer:
    """A layer with weights that are trained, its name in the model and the rule for it."""

    name: str
    module: nn.Module
    rule: Rule


def layers_of(model: nn.Module, left_out: Sequence[nn.Module] = ()) -> list[Layer]:
    """The layers of a model whose weights want a gradient.

    Args:
        model: A model whose layers all take (R, T, ...) tensors of a row each.
        left_out: Modules in it whose gradients are made elsewhere.

    Raises:
        UserError: names a layer that has no rule, or shares a weight with another.
    """
    found: list[Layer] = []
    seen: dict[int, str] = {}
    for name, module in model.named_modules():
        own = [weight for weight in module.parameters(recurse=False) if weight.requires_grad]
        if not own or any(module is other for other in left_out):
            continue
        rule = rule_of(module)
        if rule is None or len(own) != len(list(module.parameters(recurse=False))):
            raise UserError(
                f"privacy: the layer {name} ({type(module).__name__}) of the student has no rule by which the gradient "
                "of a single document could be clipped; take a student without such a layer, or leave privacy out"
            )
        for weight in own:
            if id(weight) in seen:
                raise UserError(
                    f"privacy: the layers {seen[id(weight)]} and {name} of the student share a weight, so that the "
                    "gradient of a single document cannot be clipped; take another student, or leave privacy out"
                )
            seen[id(weight)] = name
        found.append(Layer(name, module, rule))
    return found


class Book:
    """What the layers of a model got and gave in one forward and backward pass, see `recorded`."""

    def __init__(self) -> None:
        self._entries: list[tuple[Layer, Tensor, list[Tensor]]] = []

    def _take(self, layer: Layer, inputs: tuple[Any, ...], output: Any) -> None:
        if not torch.is_grad_enabled():  # nothing of this pass goes backward
            return
        if any(layer is known for known, _, _ in self._entries):
            raise UserError(f"privacy: the layer {layer.name} is used twice in one pass, for which there is no rule")
        if not (inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)):
            raise UserError(f"privacy: the layer {layer.name} takes or gives no tensor, for which there is no rule")
        if not output.requires_grad:
            output.requires_grad_()
        gradients: list[Tensor] = []
        output.register_hook(gradients.append)
        self._entries.append((layer, inputs[0].detach(), gradients))

    def made(self, rows: Rows) -> list[tuple[Layer, Made]]:
        """What each layer's rule makes of it, behind the backward pass. The book is empty then.

        Raises:
            UserError: names a layer whose rows are not those of the batch.
        """
        found = []
        for layer, inputs, gradients in self._entries:
            for gradient in gradients:  # none, where the loss does not depend on the layer
                if {len(inputs), len(gradient)} != {len(rows.documents)}:
                    raise UserError(
                        f"privacy: the layer {layer.name} has {len(gradient)} rows where the batch has "
                        f"{len(rows.documents)}, so that its documents cannot be told apart"
                    )
                found.append((layer, layer.rule(layer.module, inputs, gradient, rows)))
        self._entries.clear()
        return found


@contextmanager
def recorded(layers: Sequence[Layer], others: Sequence[nn.Parameter] = ()) -> Iterator[Book]:
    """A book of what the body does: a forward pass and `backward()`. No weight gets a gradient from autograd there.

    Args:
        layers: Those whose gradients are to be clipped.
        others: Further weights that are trained, and get their gradients elsewhere.
    """
    book = Book()
    weights = [*others, *(weight for layer in layers for weight in layer.module.parameters(recurse=False))]
    hooks = [
        layer.module.register_forward_hook(lambda _, inputs, output, layer=layer: book._take(layer, inputs, output))
        for layer in layers
    ]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield book
    finally:
        for hook in hooks:
            hook.remove()
        for weight in weights:
            weight.requires_grad_()


def add_clipped(made: Sequence[tuple[Layer, Made]], rows: Rows, scales: Tensor, bound: float) -> Tensor:
    """Add the documents' gradients, each scaled and then clipped, to the `grad` of the layers' weights.

    Args:
        made: See `Book.made`.
        rows: Those of the batch.
        scales: (B,) what each document's gradient is multiplied by before it is clipped.
        bound: The largest norm of a document's gradient over all of these layers.

    Returns:
        (B,) the norms of the scaled gradients before clipping.
    """
    squared = sum((layer_made.squared_norms for _, layer_made in made), torch.zeros_like(scales))
    norms = squared.clamp(min=0).sqrt() * scales
    weights = (scales * factors(norms, bound))[rows.documents]
    for layer, layer_made in made:
        for name, total in layer_made.weighted(weights).items():
            parameter = getattr(layer.module, name)
            parameter.grad = total.to(parameter.dtype) if parameter.grad is None else parameter.grad.add_(total)
    return norms


def check_layers(model: Any, layers: Sequence[Layer]) -> None:
    """Make sure of the rules for a model, on a few made-up tokens: the norms are those that autograd gives.

    What would go wrong silently shows here: a weight that is used outside of its layer, rows that change places, a
    layer that is never called.

    Raises:
        UserError: names the layer.
    """
    ids = torch.arange(15, device=model.device).view(3, 5) % model.get_input_embeddings().weight.shape[0]
    positions = torch.arange(5, device=model.device).expand(3, 5).contiguous()
    rows = Rows(torch.tensor([0, 1, 0]), 2, model.device)

    def outputs() -> Tensor:
        """(2,) a number for each of two documents, of which the first has two rows."""
        hidden = hidden_states(model, ids, positions)
        noise = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0)).to(hidden)
        return rows.summed((hidden * noise).flatten(1).sum(dim=1))

    with evaluating(model):
        with recorded(layers) as book:
            outputs().sum().backward()
            ours = {layer.name: made.squared_norms.sqrt() for layer, made in book.made(rows)}
        theirs = [_norms_by_autograd(output, layers) for output in outputs()]
    for number, layer in enumerate(layers):
        expected = torch.stack([norms[number] for norms in theirs])
        if layer.name not in ours or not torch.allclose(ours[layer.name], expected, rtol=1e-3, atol=1e-6):
            raise UserError(
                f"privacy: the gradients of single documents come out wrong in the layer {layer.name} of the student "
                f"({type(layer.module).__name__}), which is used in a way that its rule does not know; take another "
                "student, or leave privacy out"
            )


def _norms_by_autograd(output: Tensor, layers: Sequence[Layer]) -> list[Tensor]:
    """The norm of one document's gradient of each layer, () each."""
    weights = [weight for layer in layers for weight in layer.module.parameters(recurse=False)]
    gradients = iter(torch.autograd.grad(output, weights, retain_graph=True, allow_unused=True))
    norms = []
    for layer in layers:
        of_layer = [next(gradients) for _ in layer.module.parameters(recurse=False)]
        own = [gradient.square().sum() for gradient in of_layer if gradient is not None]
        norms.append(torch.stack([output.new_zeros(()), *own]).sum().sqrt())
    return norms
