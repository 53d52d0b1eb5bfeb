"""Distil a causal language model into a smaller one and mitigate its bias on the way. How the data flow:

    recipe        YAML files and options -> one checked, frozen object
    text          a word list and a document -> the counterfactual, its edits, and which tokens are aligned
    objective     the teacher's log-probabilities of all views -> the target; target and student -> the loss
    models        a folder or hub id -> the teacher; the teacher -> the student; prompts -> text
    data          files, a hub data set or samples from the teacher -> blocks of aligned tokens
    privacy       per-document gradients -> their clipped sum, and the noise that a bound on what they tell asks for
    training      blocks, teacher, target -> a trained student
    metrics       a model, prompts and held-out text -> measurements
    scoring       models and metrics -> scores.json, with intervals and paired differences
    federation    clients, each with its blocks -> rounds -> one trained student
    reports       scores.json -> tables, pages, figures, model cards
    demo          finished runs and checkpoints -> a page to try them on, served or exported
    study         many recipes and seeds -> one table

Every wing imports only from above it. `base` is below all of them: errors, files, what a run says. `pipeline` goes
through the wings in this order; `train` and `cli` are the entries.
"""

import logging
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if sys.platform == "win32":  # where file locks, forks and signals are others, and imports end in tracebacks
    print("error: distill does not run on Windows itself; use it in WSL, the Linux of Windows", file=sys.stderr)
    raise SystemExit(2)

# As transformers imports them, in every process anew, they tell of kernels that nobody asked for.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

if TYPE_CHECKING:
    from distill.pipeline import train as train
    from distill.scoring.score import score as score
    from distill.text.counterfactual import Swapper as Swapper
    from distill.text.swap_rows import swap_dataset as swap_dataset
    from distill.text.wordlist import load_wordlist as load_wordlist

# What a notebook wants, from where it lies. Imported when it is asked for: `import distill` loads no torch.
_OFFERED = {
    "Swapper": "distill.text.counterfactual",
    "load_wordlist": "distill.text.wordlist",
    "score": "distill.scoring.score",
    "swap_dataset": "distill.text.swap_rows",
    "train": "distill.pipeline",
}
__all__ = ["Swapper", "__version__", "load_wordlist", "score", "swap_dataset", "train"]


def __getattr__(name: str) -> Any:
    if name in _OFFERED:
        return getattr(import_module(_OFFERED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # `import distill.train`, the entry, would put that module in the place of the function of its name.
        if not (name in _OFFERED and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
