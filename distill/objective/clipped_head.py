"""The gradient of the output head inside the fused loss, document by document: clipped before it is summed.

The head's gradient is made there, chunk by chunk, and autograd never sees it. So each document has chunks of its own;
its gradient is summed up, its norm taken, and the sum added to that of all documents, weighted down to the clip. One
tensor of the head's size beside the sum is all that it takes, and none where a document's few tokens tell the norm.
"""

import torch
from torch import Tensor


class ClippedHead:
    """Sums of per-document gradients of a head, each clipped.

    Args:
        documents: (N,) int64, the document of each token.
        scales: (B,) what each document's gradient is multiplied by before it is clipped.
        bound: The largest norm of a document's gradient of weight and bias together.
    """

    def __init__(self, documents: Tensor, scales: Tensor, bound: float) -> None:
        self.documents, self.scales, self.bound = documents, scales, bound
        #: (B,) norms of the scaled gradients before clipping.
        self.norms = torch.zeros_like(scales)
        #: The clipped sums: (V, D) and (V,); None before the first token.
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self._weight: Tensor | None = None  # of the document whose chunks are coming in
        self._bias: Tensor | None = None
        self._begun = False

    def add(self, document: int, d_logits: Tensor, hidden: Tensor, with_bias: bool, last: bool) -> None:
        """Take a chunk of a document.

        Args:
            document: Which; its chunks come one behind the other.
            d_logits: (n, V) gradient of the loss.
            hidden: (n, D) what the head got.
            with_bias: Whether the head has a bias.
            last: Whether it is the document's last chunk.
        """
        hidden = hidden.to(d_logits.dtype)
        if self.weight is None:
            self.weight = d_logits.new_zeros(d_logits.shape[1], hidden.shape[1])
        n, (vocab, width) = len(hidden), self.weight.shape
        if with_bias:
            of_chunk = d_logits.sum(dim=0)
            self._bias = self._bias + of_chunk if self._begun and self._bias is not None else of_chunk
        if last and not self._begun and n * (vocab + width) < vocab * width:
            # ||Z^T H||^2 = <Z Z^T, H H^T>, and the products of n tokens are small.
            squared = (d_logits @ d_logits.T).mul_(hidden @ hidden.T).sum()
            factor = self._factor(document, squared + pairs_rounding(d_logits, hidden))
            self.weight.addmm_(d_logits.T, hidden * factor)
        else:
            if self._weight is None:
                self._weight = torch.empty_like(self.weight)
            self._weight.addmm_(d_logits.T, hidden, beta=float(self._begun))
            if last:
                factor = self._factor(document, torch.linalg.vector_norm(self._weight).square())
                self.weight.addcmul_(self._weight, factor)
        if last and self._bias is not None:
            self.bias = self._bias * factor if self.bias is None else self.bias.add_(self._bias * factor)
        self._begun = not last

    def _factor(self, document: int, squared: Tensor) -> Tensor:
        """What a document's gradient is multiplied by: its scale, and what takes it down to the bound."""
        if self._bias is not None:
            squared = squared + self._bias.square().sum()
        scale = self.scales[document]
        norm = squared.clamp(min=0).sqrt() * scale
        self.norms[document] = norm
        return scale * factors(norm, self.bound)


def factors(norms: Tensor, bound: float) -> Tensor:
    """What takes gradients of these norms down to a bound: 1 where they are within it.

    A hair less, so that the rounding of a norm does not lead beyond the bound.
    """
    hair = 100 * torch.finfo(norms.dtype).eps
    return (bound * (1 - hair) / norms.clamp(min=1e-30)).clamp(max=1)


def pairs_rounding(a: Tensor, b: Tensor) -> Tensor:
    """(...) by how much <A A^T, B B^T> may fall short of ||A^T B||^2 by rounding, for (..., n, D) and (..., n, E).

    The products of pairs of tokens may cancel out. What is lost then would let a gradient pass the clip.
    """
    size = (torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)).sum(dim=-1)
    return size.square() * (4 * torch.finfo(a.dtype).eps)
