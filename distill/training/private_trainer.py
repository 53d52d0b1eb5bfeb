"""The trainer with differential privacy: documents drawn by chance, their gradients clipped, noise on the sum.

An optimizer step of Trainer is one draw of documents, in each process its share. They are sorted by length and read a
few at a time (`per_device_train_batch_size`), so that memory is bounded whatever was drawn; the clipped sums add up in
`grad`. Then noise comes on them, once over all processes, and they are divided by the number of documents that a step
draws on average: the number that it did draw is not for anybody to know. All else (optimizer, schedule, logs,
checkpoints) is the trainer's.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from distill.base.console import say
from distill.base.errors import UserError
from distill.data.batches import documents_of
from distill.data.blocks import BlockDataset, Filler
from distill.objective import kd_loss
from distill.objective.chunks import IGNORED
from distill.objective.clipped_head import ClippedHead
from distill.privacy.accountant import MOST_NOISE, Plan, make_plan, require_learnable
from distill.privacy.clipping import Layer, Rows, add_clipped, check_layers, layers_of, recorded
from distill.privacy.draws import Draws
from distill.recipe import Recipe
from distill.training.trainer import DistillationTrainer

#: What keys of `trainer` that change a step begin with, but for how many there are, which the plan has.
_OF_STEPS = ("adam_", "learning_rate", "lr_scheduler", "max_grad_norm", "optim", "warmup", "weight_decay")
_KEPT_AS = "privacy"  # the name of what was accounted for, in the trainer's state


class PrivateTrainer(DistillationTrainer):
    """A `DistillationTrainer` whose steps are private; see the head of this file.

    Args:
        plan: What is accounted for.
        draws: The random numbers.
        kwargs: As for `DistillationTrainer`. What is frozen in `model` is so already: `freeze_what_is_not_trained`.

    Raises:
        UserError: see `layers_of` and `check_layers`.
    """

    def __init__(self, *, plan: Plan, draws: Draws, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan, self.draws = plan, draws
        self._layers = layers_of(self.model, left_out=[self.model.get_output_embeddings()])
        check_layers(self.model, self._layers)
        #: Of documents, which the plan counts: the first block of each, and its length.
        self._blocks = torch.from_numpy(self.train_dataset.first_pieces())
        self._lengths = torch.from_numpy(self.train_dataset.lengths())[self._blocks]
        self.add_callback(_Ledger(self, draws))

    def get_train_dataloader(self) -> DataLoader:
        """One item a step: the documents that this process reads in it."""
        return DataLoader(_Steps(self), batch_size=None)

    def documents_of(self, step: int) -> Tensor:
        """The documents that this process reads in a step, the shortest first."""
        process, processes = self.args.process_index, self.args.world_size
        if self.draws.seed is None:  # nobody else knows what was drawn: each process draws from documents of its own
            own = torch.arange(process, self.plan.documents, processes)
            drawn = own[self.draws.documents(step, len(own), self.plan.sample_rate)]
            return drawn[self._lengths[drawn].argsort(stable=True)]
        drawn = self.draws.documents(step, self.plan.documents, self.plan.sample_rate)
        return drawn[self._lengths[drawn].argsort(stable=True)][process::processes]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's; tells what was spent, by what: `privacy` in training/NAME.json and scores.json."""
        output = super().train(*args, **kwargs)
        # A client of a federation accounts for all rounds at once.
        steps = self.plan.steps if self._part is not None else self.state.global_step
        self.training_log.beside["privacy"] = asdict(self.plan) | {
            "epsilon": self.plan.spent(steps),
            "noise_ratio": self.plan.noise_ratio,
            "trained": "all" if self.model.get_output_embeddings().weight.requires_grad else "body",
            "secure": self.draws.seed is None,
        }
        return output

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor | None:
        """Nothing is divided by what was drawn."""
        return None

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Trainer's, which would look for tokens in what a step draws."""
        return 0

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Any = None) -> Tensor:
        """The private gradient of a step into `grad`; returns the mean loss per token of what this process read."""
        self.model.train()
        if callable(getattr(self.optimizer, "train", None)):  # those without a schedule
            self.optimizer.train()
        done: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []
        at_once = self.args.per_device_train_batch_size
        blocks: list[int] = self._blocks[inputs["documents"]].tolist()
        blocks = blocks or [Filler(0)]  # nothing was drawn, but all processes log the same things
        for start in range(0, len(blocks), at_once):
            indices = blocks[start : start + at_once]
            micro_batch = self._micro_batch(indices)
            done.append((micro_batch, *self._add_clipped(micro_batch)))
        self._finish_sums()
        count = torch.stack([tokens for _, _, tokens in done]).sum().clamp(min=1)
        self._step += [(micro_batch, loss / count) for micro_batch, loss, _ in done]
        mean = torch.stack([loss for _, loss in self._step]).sum()
        return mean.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    def _micro_batch(self, indices: list[int]) -> dict[str, Any]:
        """The batch of some blocks, on the device; pinned on its way to a GPU, as a data loader does it."""
        made = self.data_collator(self.train_dataset.__getitems__(indices))
        if self.args.device.type == "cuda":
            made = {name: part.pin_memory() if hasattr(part, "pin_memory") else part for name, part in made.items()}
        return self._prepare_inputs(made)

    def _add_clipped(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Add the clipped gradients of a micro-batch's documents to `grad`; its loss and number of tokens."""
        labels = inputs["labels"][: inputs["student_rows"]]
        forward = partial(self._loss_parts, self.model, inputs)
        documents = Documents(Rows(*documents_of(inputs), labels.device), labels)
        parts, read = add_clipped_gradients(self.model, self._layers, forward, documents, self.plan.clip)
        self._log_parts(parts, inputs, read)
        return parts.total.detach(), documents.tokens.sum()

    def _finish_sums(self) -> None:
        """Clipped sums of this process -> the noisy mean over what a step draws on average, the same in all."""
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        sums = [weight.grad for weight in weights]
        if self.args.process_index == 0:
            self.draws.add_noise(self.state.global_step, sums, self.plan.noise_multiplier * self.plan.clip)
        for total in sums:
            if self.args.world_size > 1:
                torch.distributed.all_reduce(total)
            total.div_(self.plan.batch_size)


class Documents:
    """The documents of a micro-batch.

    rows: Which of its rows are whose; tokens: (B,) how many tokens bear loss in all rows of each; of_token: (R T,)
    which document each position belongs to.

    Args:
        rows: Of R rows of the student and B documents.
        labels: (R, T).
    """

    def __init__(self, rows: Rows, labels: Tensor) -> None:
        self.rows = rows
        self.tokens = rows.summed((labels != IGNORED).sum(dim=1))
        self.of_token = rows.documents.repeat_interleave(labels.shape[1])


def add_clipped_gradients(
    student: PreTrainedModel,
    layers: Sequence[Layer],
    forward: Callable[[ClippedHead | None], tuple[kd_loss.LossParts, Any]],
    documents: Documents,
    clip: float,
) -> tuple[kd_loss.LossParts, Any]:
    """Add the clipped gradients of a micro-batch's documents to `grad` of all weights that are trained.

    A document's loss is the mean over its tokens in all of its rows. Where the head is trained, its part and that of
    the other layers are clipped to half of `clip` each: they may meet in one tied weight, and their norms then add up.

    Args:
        student: The model, with the loss attached.
        layers: See `layers_of`; of all that is trained but the head.
        forward: Gives the loss of the micro-batch, and whatever else, which is returned.
        documents: Those of the micro-batch.
        clip: C.
    """
    module = student.get_output_embeddings()
    of_head = [weight for weight in module.parameters(recurse=False) if weight.requires_grad]
    scales = 1 / documents.tokens.clamp(min=1).to(module.weight.dtype)
    bound = clip / 2 if of_head else clip
    clipped_head = ClippedHead(documents.of_token, scales, bound) if of_head else None
    with recorded(layers, of_head) as book:
        given = forward(clipped_head)
        given[0].total.backward()
        made = book.made(documents.rows)
    add_clipped(made, documents.rows, scales, bound)
    if clipped_head is not None:
        bias = getattr(module, "bias", None)
        for weight, total in ((module.weight, clipped_head.weight), (bias, clipped_head.bias)):
            if weight is not None and total is not None:
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                weight.grad[: len(total)] += total
    return given


class _Steps(IterableDataset):
    """The documents of the steps of an epoch; `BlockDataset` has them. Trainer skips what it has trained on."""

    def __init__(self, trainer: PrivateTrainer) -> None:
        self._trainer = trainer

    def __len__(self) -> int:
        return steps_of_epoch(self._trainer.plan.documents, self._trainer.plan.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        begin = self._trainer.state.global_step // len(self) * len(self)
        for step in range(begin, begin + len(self)):
            yield {"documents": self._trainer.documents_of(step)}


def steps_of_epoch(documents: int, batch_size: int) -> int:
    """How many steps draw as many documents as there are, on average."""
    return max(1, round(documents / batch_size))


class _Ledger(TrainerCallback):
    """Sees to it that a training goes on with the noise that it was accounted for with."""

    def __init__(self, trainer: PrivateTrainer, draws: Draws) -> None:
        self._trainer = trainer
        self._noise = {} if draws.seed is None else {"noise": draws.training}

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on with the checkpoint's noise, which another machine or version may find in another last digit.

        Raises UserError if the checkpoint's plan is another, or its noise is that of other text.
        """
        plan = self._trainer.plan
        if (before := state.stateful_callbacks.get(_KEPT_AS)) is not None:
            ours = asdict(plan) | self._noise
            differ = {name: value for name, value in ours.items() if before.get(name) != value}
            if [*differ] == ["noise_multiplier"] and plan.holds_with(before["noise_multiplier"]):
                plan = self._trainer.plan = replace(plan, noise_multiplier=before["noise_multiplier"])
            elif differ:
                name, value = next(iter(differ.items()))
                why = f"with {name} {before.get(name)} and not {value}"
                why = "on other text, or by another version with other noise" if name == "noise" else why
                raise UserError(
                    f"{args.output_dir}: its checkpoints were trained {why}, so that what is spent cannot be told; "
                    "remove the folder to begin again"
                )
        state.stateful_callbacks[_KEPT_AS] = asdict(plan) | self._noise


def private_plan(recipe: Recipe, arguments: TrainingArguments, student: PreTrainedModel, blocks: BlockDataset) -> Plan:
    """What a private training accounts for.

    A client of a federation accounts for every round that it may be asked in, whether it is asked or not, and a step
    draws all of its documents where it has fewer than `privacy.batch_size`.

    Args:
        recipe: The run's.
        arguments: The trainer's.
        student: The untrained student, of which `freeze_what_is_not_trained` has seen to what is left out.
        blocks: Training blocks of one document each.

    Raises:
        UserError: see `make_plan` and `require_learnable`.
    """
    assert blocks.one_document  # the pipeline sees to it
    privacy, documents, batch_size = recipe.privacy, len(blocks.first_pieces()), recipe.privacy.batch_size
    assert privacy.epsilon is not None
    clients = 1
    if recipe.federation.clients:
        batch_size, steps = min(batch_size, documents), recipe.federation.client_steps
        clients = recipe.federation.asked_of(recipe.federation.clients)
    elif (steps := arguments.max_steps) < 0:
        steps = math.ceil(arguments.num_train_epochs * steps_of_epoch(documents, batch_size))
    weights = student.num_parameters(only_trainable=True)
    plan = make_plan(privacy.epsilon, privacy.delta, privacy.clip, batch_size, documents, steps, weights)
    require_learnable(plan, clients)
    return plan


def training_key(recipe: Recipe, plan: Plan, tokens: str) -> str:
    """A hash of what a training's steps and their account follow from, the seed aside; see `Draws`.

    It leaves out what changes no step (rows at once, caches, logs) and what differs between a client of a federation in
    one process and over machines: the text's files.

    Args:
        recipe: The run's.
        plan: What is accounted for.
        tokens: `tokens_hash` of the blocks: of two students of texts that differ by a few documents, noise that is the
            same would leave these documents' gradients as the difference.
    """
    values = recipe.to_dict()
    of_steps = {key: value for key, value in recipe.trainer.items() if key.startswith(_OF_STEPS)}
    # Its noise follows from the rest, to a digit that another machine may have otherwise.
    told = {name: value for name, value in asdict(plan).items() if name != "noise_multiplier"}
    parts = [*(values[name] for name in ("target", "loss", "student", "privacy", "wordlist", "block_length"))]
    parts += [values["teacher"]["path"], of_steps, told, tokens]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def freeze_what_is_not_trained(recipe: Recipe, student: PreTrainedModel) -> None:
    """Leave out of a private training what `privacy.weights` leaves out; the student is changed in place."""
    if recipe.privacy.weights == "body":
        for module in (student.get_input_embeddings(), student.get_output_embeddings()):
            module.requires_grad_(False)


def say_plan(plan: Plan, blocks: BlockDataset) -> None:
    """What the noise will be, before it is too late."""
    say(
        f"privacy: epsilon {plan.epsilon:g} and delta {plan.delta:.3g} over {plan.steps} steps of {plan.batch_size} of "
        f"{plan.documents} documents on average take noise of {plan.noise_multiplier:.4g} times the clip; its norm is "
        f"{plan.noise_ratio:.2g} times that of a step's largest gradient (sigma sqrt(d) / B; at most {MOST_NOISE:g})"
    )
    if left := len(blocks) - plan.documents:
        say(
            f"privacy: {left} of {len(blocks)} blocks are left out, as they are later pieces of long documents, and a "
            "document is one unit; corpus.passage_chars makes several of it"
        )
