"""What the loss may be set to, and within which ranges. No tensors: a recipe is checked before torch is loaded.

The names are those of a recipe's keys, in its sections `target` (`op`, `strength`) and `loss` (all others).
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from distill.base.errors import UserError, suggestion
from distill.objective.divergences import DIVERGENCES
from distill.objective.operations import OPERATIONS


@dataclass(frozen=True)
class LossSettings:
    """Weights and shape of the loss. A part whose weight is 0 is not computed and reads 0.

    Attributes:
        kd: weight of the divergence from the teacher's target.
        ce: weight of the cross-entropy with the labels.
        hidden: weight of the cosine distance of the last hidden states.
        listed: weight of the divergence from the target on listed tokens alone, see `listed_tokens`.
        temperature: T > 0, divides the logits of target and student in the divergence.
        divergence: a key of `DIVERGENCES`.
        jsd_beta: weight of the target in the mixture of the Jensen-Shannon divergence, in (0, 1).
        op: a key of `OPERATIONS`.
        strength: in [0, 1], how much of the operation is mixed into the plain teacher.
        chunk_tokens: tokens whose logits are in memory at once in the fused loss, the student's and one view of the
            teacher's; with more views there are fewer tokens in a chunk, but no more logits. None: what suits the
            device, see `kd_loss.sizes_of_chunks`.
        pairing: weight of the divergence between what the student says of a text and of its counterfactual, see
            `pairing`.

    Raises:
        UserError: names the first setting that is out of its range.
    """

    kd: float = 1.0
    ce: float = 0.0
    hidden: float = 0.0
    temperature: float = 1.0
    divergence: str = "forward_kl"
    jsd_beta: float = 0.5
    op: str = "expmean"
    strength: float = 1.0
    chunk_tokens: int | None = None
    pairing: float = 0.0
    listed: float = 0.0

    def __post_init__(self) -> None:
        require_sound(vars(self))

    @property
    def needs_target(self) -> bool:
        """Whether a part compares with the teacher's target."""
        return self.kd > 0 or self.listed > 0

    def without_target(self) -> "LossSettings":
        """The same where there is no teacher."""
        return replace(self, kd=0.0, listed=0.0)


_CHOICES: dict[str, tuple[str, Collection[str]]] = {
    "op": ("operation", OPERATIONS),
    "divergence": ("divergence", DIVERGENCES),
}
_WEIGHT = (lambda value: 0 <= value < math.inf, "but a weight must not be negative")
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "strength": (lambda value: 0 <= value <= 1, "but must lie in [0, 1]: 0 is the plain teacher, 1 the full operation"),
    "temperature": (lambda value: 0 < value < math.inf, "but must be greater than 0"),
    "jsd_beta": (lambda value: 0 < value < 1, "but must lie between 0 and 1"),
    "chunk_tokens": (lambda value: value >= 1, "but must be at least 1, or null for what suits the device"),
    "kd": _WEIGHT,
    "ce": _WEIGHT,
    "hidden": _WEIGHT,
    "pairing": _WEIGHT,
    "listed": _WEIGHT,
}


def require_sound(settings: Mapping[str, Any], prefix: str = "") -> None:
    """Raise a UserError that names the first setting out of its range.

    Args:
        settings: Names of `LossSettings`' fields, any of them, and their values.
        prefix: What stands in front of the name in a recipe, for the message.
    """
    for name, value in settings.items():
        if name in _CHOICES:
            what, choices = _CHOICES[name]
            if value not in choices:
                raise UserError(f"{prefix}{name}: unknown {what} '{value}'; {suggestion(value, choices)}")
        elif value is not None:
            is_sound, message = _RANGES[name]
            if not is_sound(value):
                raise UserError(f"{prefix}{name} is {value}, {message}")
