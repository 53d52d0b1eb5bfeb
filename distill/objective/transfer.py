"""What is made on the CPU and read on a device, which a GPU fetches while the processor goes on."""

import torch
from torch import Tensor


def copied_to(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device; one that is there already as it is.

    From memory that the system may move (pageable), a GPU copies only when all that it was given before is done, and
    the processor waits for it, `non_blocking` or not. So what goes there is pinned first.
    """
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
