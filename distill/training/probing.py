"""The disparity so far: what a probe says of the student while it trains, for the console, trackers and the report.

A probe is a function that measures a model on a few prompts. It comes from outside (`scoring.so_far`), because the
metrics lie behind this wing. It changes neither weights nor random numbers: a training with it ends in the same bytes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from distill.base.console import say
from distill.models.architecture import is_sharded

#: Names in the trainer's log, for trackers and in training/NAME.json; the teacher's stand there as teacher_NAME.
SIZE, MEAN = "next_word_disparity_so_far", "next_word_mean_so_far"


@dataclass(frozen=True)
class SoFar:
    """What a probe found.

    size: mean |log ratio| over the prompts, as in the metric. mean: the mean with its sign; None with more than two
    groups. too_little: why there is no size. prompts: how many there were.
    """

    size: float | None
    mean: float | None
    too_little: str | None
    prompts: int

    def figures(self) -> dict[str, float]:
        """Name in the log -> value, of what there is."""
        found = {SIZE: self.size, MEAN: self.mean}
        return {name: value for name, value in found.items() if value is not None}


Probe = Callable[[PreTrainedModel], SoFar]


class Probing(TrainerCallback):
    """Asks the probe when it is due, and gives what it found to the trainer's log.

    It is due before the first step and after the last, and every `steps` steps in between, or at every save. What a
    checkpoint holds of the log goes on in a run that continues from it.

    Args:
        trainer: A `DistillationTrainer`. Its `log` takes the figures; its teacher is measured once, to compare with.
        probe: Measures a model.
        steps: Optimizer steps from one to the next; None: at every save.
    """

    def __init__(self, trainer: Trainer, probe: Probe, steps: int | None) -> None:
        self._trainer, self._probe, self._steps = trainer, probe, steps
        self._of_teacher: SoFar | None = None
        self._last = -1  # the step that was looked at last

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        teacher = self._trainer.teacher
        if state.is_world_process_zero and teacher is not None and not is_sharded(teacher):
            self._of_teacher = self._measured(teacher)
            figures = self._of_teacher.figures()
            self._trainer.training_log.beside |= {f"teacher_{name}": value for name, value in figures.items()}
        if state.global_step == 0 and state.max_steps > 0:
            self._look(state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Before the trainer saves, so that the checkpoint's log holds it.
        if self._steps is not None:
            due = state.global_step % self._steps == 0
        elif self._trainer.stopped:  # which asks for a save that the run may not have had
            due = args.save_strategy == SaveStrategy.STEPS and state.global_step % state.save_steps == 0
        else:
            due = control.should_save
        if due or state.global_step >= state.max_steps:
            self._look(state, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._steps is not None or args.save_strategy != SaveStrategy.EPOCH:
            return
        # Trainer says so of an epoch in whose midst the run was stopped, too.
        if math.isclose(state.epoch, round(state.epoch), abs_tol=1e-6):
            self._look(state, control)

    def _measured(self, model: PreTrainedModel) -> SoFar:
        # Where steps are compiled, the few prompts of a probe, each of another length, would be compiled for as well.
        with torch.compiler.set_stance("force_eager"):
            return self._probe(model)

    def _look(self, state: TrainerState, control: TrainerControl) -> None:
        if self._last == state.global_step or not state.is_world_process_zero:
            return
        self._last = state.global_step
        found = self._measured(self._trainer.model)
        say(so_far_line(found, self._of_teacher, state.global_step, state.max_steps))
        if figures := found.figures():
            due = control.should_log
            self._trainer.log(figures)
            control.should_log = due  # which a log takes for done


def so_far_line(found: SoFar, of_teacher: SoFar | None, step: int, steps: int) -> str:
    """What the probe found, as a line to read."""
    begin = f"step {step} of {steps}: "
    if found.size is None:
        return f"{begin}too little to tell the disparity so far: {found.too_little}"
    teacher = f", the teacher's {of_teacher.size:.3f}" if of_teacher and of_teacher.size is not None else ""
    mean = f"; mean {found.mean:+.3f}" if found.mean is not None else ""
    return f"{begin}next-word disparity so far {found.size:.3f}{teacher}{mean}, on {found.prompts} prompts"
