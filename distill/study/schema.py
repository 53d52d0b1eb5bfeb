"""What a study file holds."""

from dataclasses import dataclass, field
from typing import Any

from distill.recipe import WeightBits

#: The row that all others are set against which name no other.
BASELINE = "plain"

#: The halves of the occupations: settings may be chosen by one, and are then judged by the other.
HALVES = ("chosen", "held_out")


@dataclass(frozen=True)
class PromptedRow:
    """A model that is asked behind a prompt, too, as it decodes: see `study/self_debiasing.py`.

    Args:
        prompt: What announces the bias, before every text.
        decay: How strongly a word counts that the prompt makes likelier.
        of: The student that decodes so, by its row; `null`: the teacher.
    """

    prompt: str = ""
    decay: float = 50.0
    of: str | None = None


@dataclass(frozen=True)
class QuantizedRow:
    """A model as its users will run it, with the weights of its layers in fewer bits: see `quantize_weights`.

    Args:
        quantize: `int8`, `int4` or `int3`.
        of: The student that is copied, by its row; `null`: the teacher.
    """

    quantize: WeightBits = "int4"
    of: str | None = None


@dataclass(frozen=True)
class Study:
    """A study file. `base:` in it names another one, whose keys it replaces; `settings` are laid over those there,
    where the recipe is the same.

    Args:
        output_dir: Folder of all its runs.
        recipe: The recipe that all rows share, a path relative to the study file.
        settings: Keys laid over that recipe, for all rows. `{data}` in a text stands for the folder `data`.
        seeds: One run of each row for each; all are asked the same prompts.
        jobs: Rows that train, and models that are scored, at the same time; without a GPU they share the cores.
        teachers: Row name -> keys of `target`: the teacher itself, without any, or as a two-view teacher. Or keys of a
            recipe's `teacher`, `path` among them: a checkpoint from elsewhere, scored as it is. Or `prompt`, with
            `decay` and `of`: the teacher, or the student of the row `of`, mitigates itself as it decodes. Or
            `quantize`, with `of`: a copy of it in fewer bits. And `against`, as below.
        students: Row name -> recipe keys. `{data}` in a text stands for the folder `data`, and `{student:ROW}` for the
            student of a row above, of the same seed. The row `plain` mitigates by nothing, as the baseline of a run.
            `against: ROW`, of either kind: ratios and differences of this row are to that one, not to `plain`; `null`:
            there are none, as for `plain` itself.
        metrics: Scores of every model.
        half_metrics: Those that are also given for each half of the occupations.
        text_metrics: Those that are also given for each of `texts`.
        texts: Name -> file of held-out text below `data`.
        passage_chars: As in a recipe's corpus, for `texts`.
        max_documents: As in a recipe's corpus, for `texts`.
        data: Folder of benchmark data; `null`: what needs it is not measured.
        costs: Also tell what each row takes: seconds of training, of a step, and of a token that its model writes.
    """

    output_dir: str = "outputs/study"
    recipe: str = "quickstart.yaml"
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 1
    teachers: dict[str, dict[str, Any]] = field(default_factory=dict)
    students: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    half_metrics: tuple[str, ...] = ()
    text_metrics: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    passage_chars: int | None = None
    max_documents: int | None = None
    data: str | None = None
    costs: bool = False
