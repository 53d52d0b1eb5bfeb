"""How fast the products of matrices in a model could be on this device, and what is told of how fast they are.

Operations are those of matrix products in a forward pass: for each token two a weight of layers and head, and those of
causal attention (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). A backward pass takes twice as many. Where a model
has experts, all are counted.
"""

from typing import Any

import torch

from distill.base.console import count_tokens
from distill.base.errors import UserError
from distill.models.architecture import decoder_layers

#: Name as torch.cuda gives it -> 10^12 dense operations a second in bfloat16 or float16 (accumulated in float32) and in
#: float32 without TF32, by the makers' data sheets. Cards that are not here, or slices of one, have no share.
_TERA_OPERATIONS = {
    "NVIDIA H200": (989.0, 67.0),
    "NVIDIA H100 80GB HBM3": (989.0, 67.0),
    "NVIDIA H100 PCIe": (756.0, 51.0),
    "NVIDIA H100 NVL": (835.0, 60.0),
    "NVIDIA A100-SXM4-40GB": (312.0, 19.5),
    "NVIDIA A100-SXM4-80GB": (312.0, 19.5),
    "NVIDIA A100-PCIE-40GB": (312.0, 19.5),
    "NVIDIA A100 80GB PCIe": (312.0, 19.5),
    "NVIDIA L4": (121.0, 30.3),
    "NVIDIA L40S": (362.0, 91.6),
    "Tesla T4": (65.0, 8.1),
    "NVIDIA GeForce RTX 4090": (165.2, 82.6),
    "NVIDIA GeForce RTX 3090": (71.0, 35.6),
}


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float | None:
    """Operations a second that the card can do in matrix products of this format; None where that is not known."""
    if device.type != "cuda" or (rates := _TERA_OPERATIONS.get(torch.cuda.get_device_name(device))) is None:
        return None
    if dtype in (torch.bfloat16, torch.float16):
        return rates[0] * 1e12
    # Asked by its newer name: the older one raises where the newer was set, as transformers sets it.
    if dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision != "tf32":
        return rates[1] * 1e12
    return None


def forward_operations(model: Any, tokens: int) -> float:
    """Operations of a forward pass for each token of a text that is so many tokens long."""
    _, layers = decoder_layers(model)
    weights = sum(p.numel() for p in layers.parameters() if p.dim() > 1) + model.get_output_embeddings().weight.numel()
    return 2 * weights + 2 * len(layers) * tokens * model.config.hidden_size


def seconds_at_matrix_rate(model: Any, tokens: int, dtype: torch.dtype | None = None) -> float:
    """Seconds for each token of a forward pass, if there were nothing but matrix products at the card's rate.

    Args:
        model: On its device.
        tokens: How many a text has.
        dtype: In which the products are made; None: that of the weights.

    Returns:
        0 where the rate is not known, or the model's layers are not.
    """
    device = getattr(model, "device", None)
    if not isinstance(device, torch.device) or device.type != "cuda":
        return 0.0
    rate = matrix_rate(device, dtype or model.dtype)
    try:
        return forward_operations(model, tokens) / rate if rate else 0.0
    except (UserError, AttributeError):  # a model that is built in another way; no pass fails for a figure beside it
        return 0.0


def count_forward(model: Any, tokens: int, length: int) -> None:
    """Let progress tell how fast so many tokens, of texts of about this length, were read or written."""
    count_tokens(tokens, tokens * seconds_at_matrix_rate(model, length))
