"""What a training says while it runs and leaves behind: speed, shares of time and text, memory, counts of tokens.

Counts and seconds are added up where they arise, without waiting for the device. Processes exchange them only when a
log or a checkpoint is due.
"""

import math
import resource
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import TrainerCallback, TrainerState

from distill.base.console import speed
from distill.base.files import write_json

_KEPT_AS = "distill"  # the name of our totals in the trainer's state
_GIB = 2**30


class Stopwatch:
    """Seconds between `start` and `stop`, added up until they are taken.

    On CUDA they are the device's own, from events in its stream: nothing waits for the device before `take`.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []

    def start(self) -> None:
        """Begin a span."""
        self._begun = self._now()

    def stop(self) -> None:
        """End it."""
        self._spans.append((self._begun, self._now()))

    def take(self) -> float:
        """The seconds since they were last taken."""
        spans, self._spans = self._spans, []
        if self._cuda and spans:
            spans[-1][1].synchronize()
            return sum(begin.elapsed_time(end) for begin, end in spans) / 1000
        return sum(end - begin for begin, end in spans)

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def token_counts(inputs: Mapping[str, Any], passes: int, read: np.ndarray) -> dict[str, int]:
    """Valid tokens of a batch of `batches.Collator`, from what that has counted: no device is asked.

    - student_tokens: that the student trains on; edited_tokens: of these, in blocks with counterfactuals;
      aligned_tokens: of these, with a partner in every other view.
    - teacher_tokens: in the rows that the teacher read; cached_tokens: in those that it did not have to.
    - unshared_tokens: what it would have read, had each of the student's rows got passes of its own, one for each view
      in its target, without regard to what was edited.

    Args:
        inputs: The batch; R rows.
        passes: The views in a row's target: K, 1 without an operation on views, or 0 without a teacher.
        read: (R,) which rows the teacher read; the others were cached, if there is a teacher.
    """
    rows, edited, tokens = inputs["student_rows"], inputs["edited"], inputs["tokens"]
    of_student = np.arange(len(tokens)) < rows
    if passes > 1:
        # The target of each of a block's student rows takes all the block's rows. They are all the student's with
        # augmentation, else one is. An unedited block has one row, which stands for all views.
        unshared = tokens * np.where(edited & (rows < len(tokens)), 1, passes)
    else:
        unshared = passes * tokens * of_student
    counts = {
        "student_tokens": tokens * of_student,
        "edited_tokens": tokens * (of_student & edited),
        "aligned_tokens": inputs["aligned"] * (of_student & edited),
        "teacher_tokens": tokens * read,
        "cached_tokens": min(passes, 1) * tokens * ~read,
        "unshared_tokens": unshared,
    }
    return {name: int(of_rows.sum()) for name, of_rows in counts.items()}


@dataclass
class Totals:
    """What a training took, over all processes and restarts; work that a kill undid is not in it.

    seconds: wall time. processor_seconds: that of all threads, which other work on the machine does not change.
    student_tokens: valid tokens trained on. teacher_tokens: valid tokens that the teacher read.
    teacher_tokens_saved: those that it did not read again, because views share their passes, unedited text is its own
    counterfactual, or hidden states were cached; see `token_counts`.
    """

    seconds: float = 0.0
    processor_seconds: float = 0.0
    student_tokens: int = 0
    teacher_tokens: int = 0
    teacher_tokens_saved: int = 0


class TrainingLog(TrainerCallback):
    """Adds up what the steps of a training count and take.

    Args:
        accelerator: Gathers the figures of all processes.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.totals = Totals()
        self.beside: dict[str, Any] = {}  # what others want written beside the totals
        #: Seconds of a token in the teacher's pass and in the student's two, were there only matrix products at the
        #: card's rate; 0 where it is not known, None before the first batch.
        self.at_matrix_rate: tuple[float, float] | None = None
        self.teacher_time = Stopwatch(accelerator.device)
        self._accelerator = accelerator
        self._step_time = Stopwatch(accelerator.device)
        self._names: tuple[str, ...] = ()  # of the parts of the loss
        self._sums: Tensor | None = None  # this process's, since they were last gathered
        self._counts: Counter[str] = Counter()  # and its counts
        self._interval: Counter[str] = Counter()  # all processes', since the last log

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Go on from the totals of the checkpoint, if there is one."""
        self.totals = Totals(**state.stateful_callbacks.get(_KEPT_AS, {}))
        self._since, self._processor_since = time.perf_counter(), time.process_time()
        if self._accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """The step's time begins, with its data there."""
        self._step_time.start()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """The step's time ends, after the update."""
        self._step_time.stop()

    def add(self, parts: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
        """Add a micro-batch's parts of the loss, at least one, () each and on the device, and its counts of tokens.

        Always the same names, on every process.
        """
        self._names = tuple(parts)
        sums = torch.stack(list(parts.values())).double()
        sums = sums.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)  # a step that is left out must not stay in here
        self._sums = sums if self._sums is None else self._sums + sums
        self._counts.update(counts)

    def gather(self) -> None:
        """Add the sums of all processes to the interval and to the totals. Every process must call it."""
        device = self._accelerator.device
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        processor = time.process_time()
        on_processor, self._processor_since = processor - self._processor_since, processor
        counts, self._counts = self._counts, Counter()
        own = [_peak_memory(device), on_processor, self.teacher_time.take(), self._step_time.take(), *counts.values()]
        sums = torch.tensor(own, dtype=torch.float64, device=device)
        if self._sums is not None:  # there is nothing where a checkpoint follows a log
            sums, self._sums = torch.cat([sums, self._sums]), None
        peaks, *columns = self._accelerator.gather(sums[None]).T.tolist()
        names = ("processor_seconds", "teacher_seconds", "step_seconds", *counts, *self._names)
        new = Counter({name: sum(column) for name, column in zip(names, columns, strict=False)})
        self._peak = max(peaks)
        self._interval.update(new)
        self._interval["seconds"] += seconds  # type: ignore[assignment]  # a Counter adds up floats as well
        self.totals.seconds += seconds
        self.totals.processor_seconds += new["processor_seconds"]
        self.totals.student_tokens += round(new["student_tokens"])
        self.totals.teacher_tokens += round(new["teacher_tokens"])
        self.totals.teacher_tokens_saved += round(new["unshared_tokens"] - new["teacher_tokens"])

    def keep(self, state: TrainerState) -> None:
        """Put the totals into the state that a checkpoint is about to be made of. Every process must call it."""
        self.gather()
        state.stateful_callbacks[_KEPT_AS] = asdict(self.totals)

    def figures(self) -> dict[str, float]:
        """What a log says of the steps since the last one. Every process must call it.

        tokens_per_second: valid tokens trained on, by wall time. teacher_time_share, student_time_share: shares of the
        wall time that went into the teacher's passes, and into the rest of the steps (forward, loss, backward,
        update); what is missing to 1 went into data, logs and checkpoints. edited_share: of the student's tokens, in
        blocks with counterfactuals. aligned_share: of those, with a partner in every other view. cached_share: of the
        views' tokens, not read by the teacher because their hidden states were cached. peak_memory_gib: the most of
        any process so far: allocated on CUDA while training, else resident. loss_*: parts of the loss, means per token.
        matrix_rate_share: what the products of matrices of these tokens would take at the card's rate, of the wall
        time of all processes; where that rate is known.
        """
        self.gather()
        sums, self._interval = self._interval, Counter()
        process_seconds = sums["seconds"] * self._accelerator.num_processes
        figures = {n: sums[n] / max(sums["student_tokens"], 1) for n in self._names if n.startswith("loss_")}
        figures |= {
            "tokens_per_second": sums["student_tokens"] / sums["seconds"],
            "teacher_time_share": sums["teacher_seconds"] / process_seconds,
            "student_time_share": (sums["step_seconds"] - sums["teacher_seconds"]) / process_seconds,
            "edited_share": sums["edited_tokens"] / max(sums["student_tokens"], 1),
            "peak_memory_gib": self._peak / _GIB,
        }
        figures |= self._matrix_rate_share(sums["teacher_tokens"], sums["student_tokens"], process_seconds)
        if sums["edited_tokens"]:
            figures["aligned_share"] = sums["aligned_tokens"] / sums["edited_tokens"]
        if sums["cached_tokens"]:
            figures["cached_share"] = sums["cached_tokens"] / (sums["cached_tokens"] + sums["teacher_tokens"])
        return figures

    def _matrix_rate_share(self, teacher_tokens: float, student_tokens: float, seconds: float) -> dict[str, float]:
        of_teacher, of_student = self.at_matrix_rate or (0.0, 0.0)
        least = of_teacher * teacher_tokens + of_student * student_tokens
        return {"matrix_rate_share": least / seconds} if least and seconds else {}

    def _speed(self) -> dict[str, float]:
        """The figures of that name, of the whole training."""
        totals = self.totals
        if not totals.seconds:
            return {}
        process_seconds = totals.seconds * self._accelerator.num_processes
        share = self._matrix_rate_share(totals.teacher_tokens, totals.student_tokens, process_seconds)
        return {"tokens_per_second": totals.student_tokens / totals.seconds, **share}

    def write(self, path: Path, history: Sequence[Mapping[str, float]]) -> None:
        """Write {"history", the totals, speed and `beside` by name} for the report; what JSON cannot hold becomes null.

        Args:
            path: A JSON file.
            history: The trainer's log entries, each with its step.
        """
        entries = [{k: v if math.isfinite(v) else None for k, v in entry.items()} for entry in history]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"history": entries, **asdict(self.totals), **self._speed(), **self.beside})


def _peak_memory(device: torch.device) -> int:
    """Bytes: the most that was allocated on a CUDA device, or the highest resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def log_line(logs: Mapping[str, float], step: int, steps: int) -> str:
    """A log entry as a line to read.

    Args:
        logs: What the trainer logs: loss, learning_rate, and what `TrainingLog.figures` gives.
        step: The optimizer's steps so far.
        steps: Those that there will be.
    """
    parts = [f"{name.removeprefix('loss_')} {v:.4f}" for name, v in logs.items() if name.startswith("loss_")]
    line = f"step {step} of {steps}: loss {logs['loss']:.4f}" + (f" ({', '.join(parts)})" if len(parts) > 1 else "")
    line += f"; {speed(logs['tokens_per_second'], logs.get('matrix_rate_share', 0.0))}"
    line += f", teacher {logs['teacher_time_share']:.0%} and student {logs['student_time_share']:.0%} of the time"
    if "cached_share" in logs:
        line += f", {logs['cached_share']:.0%} from the teacher's cache"
    if "aligned_share" in logs:
        line += f"; {logs['edited_share']:.0%} of the text edited, {logs['aligned_share']:.1%} of it aligned"
    line += f"; learning rate {logs['learning_rate']:.3g}"
    if "grad_norm" in logs:
        line += f", gradient norm {logs['grad_norm']:.3g}"
    return line + f"; peak memory {logs['peak_memory_gib']:.2f} GiB"
