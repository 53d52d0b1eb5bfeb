"""What a CPU answers at once and the processor would wait for a GPU for."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations that give a number to the processor, or whose result has a shape that the numbers decide.
_ASKING = {
    "_local_scalar_dense", "bincount", "equal", "is_nonzero", "masked_select", "nonzero", "repeat_interleave.Tensor",
    "unique_consecutive", "unique_dim", "_unique", "_unique2",
}  # fmt: skip
_INDEXED = {"index", "index_put", "index_put_", "_unsafe_index", "_unsafe_index_put"}


class Operations(TorchDispatchMode):
    """Lists what is done inside, operation by operation.

    names: of all of them, views among them. questions: of those for which a GPU has to be waited for. What reads a
    tensor's memory by itself, as `tolist` does on a CPU, is no operation, and not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.questions: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        self.names.append(name)
        asks = not _ASKING.isdisjoint({name, f"{name}.{func._overloadname}"})
        if name in _INDEXED:  # by a mask: its true places are looked for first
            asks |= any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if asks:
            self.questions.append(name)
        return func(*args, **(kwargs or {}))
