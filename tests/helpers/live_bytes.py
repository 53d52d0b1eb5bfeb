"""How many bytes of tensors are there at once, counted as operations make them and as they are let go."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Records in `peak` the most bytes that results of operations held at one time, beside what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {x.untyped_storage()._cdata for x in args if isinstance(x, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(made, torch.Tensor):
                storage = made.untyped_storage()
                place = storage._cdata
                if place not in self.sizes and place not in known:
                    self.sizes[place] = storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, place)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return result
