"""The random numbers of a private training: which documents a step draws, and its noise.

From the recipe's seed, or from the operating system's own generator. By the seed, a step's numbers depend on the seed
and the step's number alone: a training that was stopped goes on with the same ones. But whoever knows the seed can
draw them again for every text that they try, and epsilon promises nothing against them; a student to be published wants
the other source.
The operating system's numbers are fit for cryptography, kept nowhere, and never come back.
"""

import hashlib
import math
import os

import torch
from torch import Tensor

#: Normal numbers whose sum makes one from the operating system's: what the least significant digits of a single one
#: would tell of what is behind the noise (Mironov 2012; Holohan and Braghin 2021, arXiv 2107.10138) is lost in four.
_SUMMED = 4


class Draws:
    """The random numbers of the steps of one training.

    Args:
        seed: Decides all of them; None: the operating system's generator.
        training: With the seed, decides the noise: that of two trainings must differ, or it would cancel out of the
            difference of what they learned. Which documents a step draws may be the same.
    """

    def __init__(self, seed: int | None, training: str = "") -> None:
        self.seed, self.training = seed, training

    def documents(self, step: int, documents: int, rate: float) -> Tensor:
        """The documents of a step, ascending: each of `documents` with probability `rate`, whatever the others do."""
        if self.seed is None:
            uniform = _uniform(documents)
        else:
            generator = torch.Generator().manual_seed(_derived(self.seed, "documents", step))
            uniform = torch.rand(documents, generator=generator, dtype=torch.float64)
        return (uniform < rate).nonzero().squeeze(1)

    def add_noise(self, step: int, sums: list[Tensor], deviation: float) -> None:
        """Add independent normal numbers of this standard deviation to all tensors of a step, in place."""
        if self.seed is None:
            for total in sums:
                total.add_(_normal(total.numel()).view(total.shape).to(total), alpha=deviation)
            return
        generators: dict[torch.device, torch.Generator] = {}
        for total in sums:
            if total.device not in generators:
                key = _derived(self.seed, f"noise{self.training}", step)
                generators[total.device] = torch.Generator(total.device).manual_seed(key)
            noise = torch.empty_like(total).normal_(generator=generators[total.device])
            total.add_(noise, alpha=deviation)


def _derived(seed: int, purpose: str, step: int) -> int:
    """A seed of 63 bits for one purpose in one step."""
    digest = hashlib.sha256(f"{seed} {purpose} {step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _uniform(count: int) -> Tensor:
    """(count,) numbers in [0, 1) with 53 random bits each, from the operating system."""
    bits = torch.frombuffer(bytearray(os.urandom(8 * count)), dtype=torch.int64) if count else torch.zeros(0).long()
    return ((bits >> 11) & (2**53 - 1)).double() * 2.0**-53


def _normal(count: int) -> Tensor:
    """(count,) standard normal numbers from the operating system, by Box and Muller's formula."""
    pairs = -(-count // 2)
    total = torch.zeros(2 * pairs, dtype=torch.float64)
    for _ in range(_SUMMED):
        radius = (1 - _uniform(pairs)).log_().mul_(-2).sqrt_()
        angle = _uniform(pairs).mul_(2 * math.pi)
        total += torch.cat([radius * angle.cos(), radius * angle.sin()])
    return total[:count].div_(math.sqrt(_SUMMED))
