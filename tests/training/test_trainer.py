"""The trainer: the right loss, and one teacher pass."""

import multiprocessing
from types import SimpleNamespace

import pytest
import torch
from device_questions import Operations
from shared import TOY_ARCHITECTURES
from torch._dynamo.utils import counters
from toy_trainer import make_trainer, toy_batch

from distill.data.batches import Collator
from distill.data.counts import PackingCounts
from distill.data.packing import pack
from distill.models.architecture import backbone, head, hidden_states
from distill.models.document_attention import try_documents
from distill.objective.chunks import IGNORED
from distill.objective.listed_tokens import ListedTokens
from distill.objective.logit_ops import RoleMap
from distill.recipe import LossConfig, Recipe, TargetConfig
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist
from distill.training.probing import Probing, SoFar
from distill.training.run import loss_planner


@pytest.fixture
def batch(toy_tokenizer):
    return toy_batch(toy_tokenizer)


@pytest.mark.parametrize("architecture", list(TOY_ARCHITECTURES))
def test_loss_is_the_reference_loss_of_the_batch(tmp_path, toy_model, batch, architecture):
    """Trainer, packing and fused loss together against plain tensors: every row, every partner."""
    inputs, blocks = batch
    student, teacher = toy_model(architecture, seed=1), toy_model(architecture, seed=2)
    target = TargetConfig(op="mean", augment=True)
    trainer = make_trainer(tmp_path, student, teacher, blocks, target, LossConfig(ce=0.3))
    loss = trainer.compute_loss(student, inputs)
    with torch.no_grad():
        own = hidden_states(student, inputs["input_ids"], inputs["position_ids"]).flatten(0, 1)
        theirs = hidden_states(teacher, inputs["input_ids"], inputs["position_ids"]).flatten(0, 1)
        log_q = (own @ head(student)[0].T).log_softmax(-1)
        log_t = (theirs @ head(teacher)[0].T).log_softmax(-1)
        labels, partner = inputs["labels"].flatten(), inputs["partner"][0].flatten()
        total = count = 0
        for i in range(len(labels)):
            if labels[i] == IGNORED:
                continue
            target = log_t[i]
            if partner[i] >= 0:
                target = ((target + log_t[partner[i]]) / 2).log_softmax(-1)
            total += (target.exp() * (target - log_q[i])).sum() - 0.3 * log_q[i, labels[i]]
            count += 1
    assert float(loss.detach()) == pytest.approx(float(total) / count, rel=1e-5)


def test_the_part_on_listed_tokens_is_that_of_the_batch(tmp_path, toy_model, batch):
    """Of one pair of tokens: the divergence of two shares, of the mean of both views; and what the log is told."""
    inputs, blocks = batch
    student, teacher = toy_model(seed=1), toy_model(seed=2)
    pair = [30, 41]
    listed = ListedTokens.of([RoleMap([tuple(pair), tuple(pair[::-1])], len(head(student)[0]))])
    target, weights = TargetConfig(op="expmean", augment=True), LossConfig(kd=0.0, ce=0.0, listed=0.5)
    trainer = make_trainer(tmp_path, student, teacher, blocks, target, weights, listed=listed)
    loss, parts = trainer.compute_loss(student, inputs, return_outputs=True)
    with torch.no_grad():
        own, theirs = (
            (hidden_states(model, inputs["input_ids"], inputs["position_ids"]).flatten(0, 1) @ head(model)[0].T)
            for model in (student, teacher)
        )
        q, views = own[:, pair].softmax(-1), theirs.softmax(-1)[:, pair]
        partner = inputs["partner"][0].flatten()
        p = torch.where((partner >= 0).unsqueeze(1), views + views[partner.clamp(min=0)], views)
        p = p / p.sum(-1, keepdim=True)
        expected = (q * (q / p).log()).sum(-1)[inputs["labels"].flatten() != IGNORED]
    assert float(loss.detach()) == pytest.approx(0.5 * float(expected.mean()), rel=1e-4)
    assert float(parts.listed) == pytest.approx(float(expected.sum()), rel=1e-4) and parts.kd == 0


def test_the_teacher_runs_once_in_eval_mode_without_gradients(tmp_path, toy_model, batch):
    inputs, blocks = batch
    student, teacher = toy_model(seed=1), toy_model(seed=2).train()
    trainer = make_trainer(tmp_path, student, teacher, blocks, TargetConfig(op="max", augment=True), LossConfig())
    calls = []
    teacher.base_model.register_forward_hook(
        lambda module, args, kwargs, out: calls.append(
            (module.training, torch.is_grad_enabled(), kwargs["input_ids"].shape[0])
        ),
        with_kwargs=True,
    )
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    trainer.compute_loss(student.train(), inputs).backward()
    assert calls == [(False, False, len(inputs["input_ids"]))]
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize("op", ["none", "max"])
@pytest.mark.parametrize("augment", [False, True])
def test_the_teacher_reads_every_text_once_and_nothing_twice(tmp_path, toy_model, toy_tokenizer, op, augment):
    """Unedited text is read once and never doubled; with augmentation, a pair shares its two passes."""
    swapper = Swapper(load_wordlist("english_gender"))
    edited, unedited = ["she saw her book", "his king"], ["Nothing happened.", "A storm came up.", "It rained."]
    blocks = [b for text in edited + unedited for b in pack([text], toy_tokenizer, swapper, 24, PackingCounts())]
    views = 2 if augment or op != "none" else 1
    inputs = Collator(views, augment)(blocks)
    student, teacher = toy_model(seed=1), toy_model(seed=2)
    trainer = make_trainer(tmp_path, student, teacher, blocks, TargetConfig(op=op, augment=augment), LossConfig())
    read = {"student": [], "teacher": []}
    for name, model in (("student", student), ("teacher", teacher)):
        # The position embedding sees each position that a model reads, however the words come in.
        model.base_model.wpe.register_forward_hook(
            lambda module, args, out, rows=read[name]: rows.append(args[0].numel()) and None
        )
    trainer.compute_loss(student, inputs)
    assert read["teacher"] == [24 * (3 + 2 * views)]
    assert read["student"] == [24 * (3 + 2 * (2 if augment else 1))]


@pytest.mark.parametrize("parts", [{}, {"listed": 0.5}, {"pairing": 0.5}, {"hidden": 0.5, "ce": 0.3}])
def test_a_micro_batch_asks_the_device_nothing(tmp_path, toy_model, batch, parts):
    """With what the collator has found, and the models told where documents begin, as they are on a GPU."""
    _, blocks = batch
    student, teacher = toy_model(seed=1), toy_model(seed=2)
    vocab = len(head(student)[0])
    maps = [RoleMap([(30, 41), (41, 30), (7, 9), (9, 7), (7, 11), (11, 7)], vocab)]
    loss, target = LossConfig(**parts), TargetConfig(op="expmean", augment=True)
    listed = ListedTokens.of([RoleMap([(30, 41), (41, 30)], vocab)])
    trainer = make_trainer(tmp_path, student, teacher, blocks, target, loss, maps, listed)
    recipe = Recipe(loss=loss, target=target)
    plan = loss_planner(trainer.args, recipe, True, vocab)
    inputs = Collator(2, True, plan=plan, pairs=bool(loss.pairing))(blocks)
    assert all(try_documents(backbone(model)) for model in (teacher, student))
    trainer.compute_loss(student, inputs)  # what is looked up once
    with Operations() as done:
        count = trainer._get_num_items_in_batch([inputs], trainer.args.device)
        found = trainer.compute_loss(student, inputs, num_items_in_batch=count)
        found.backward()
    assert not done.questions
    planless = Collator(2, True)(blocks)  # the loss finds all by itself
    assert planless.keys().isdisjoint({"plan", "pairs"})
    assert float(found.detach()) == pytest.approx(float(trainer.compute_loss(student, planless).detach()), rel=1e-6)


def test_a_log_costs_a_micro_batch_few_operations(tmp_path, toy_model, batch):
    """Each is a kernel's launch on a GPU; what is counted, the collator has counted."""
    inputs, blocks = batch
    student, teacher = toy_model(seed=1), toy_model(seed=2)
    target, loss = TargetConfig(op="expmean", augment=True), LossConfig(ce=0.5, listed=0.1)
    trainer = make_trainer(tmp_path, student, teacher, blocks, target, loss)
    parts, read = trainer._loss_parts(student, inputs)
    trainer._log_parts(parts, inputs, read)
    with Operations() as done:
        trainer._log_parts(parts, inputs, read)
    assert len(done.names) <= 4 and not done.questions
    trainer.training_log.on_train_begin(trainer.args, trainer.state, trainer.control)
    figures = trainer.training_log.figures()
    tokens = int((inputs["labels"] != IGNORED).sum())
    assert trainer.training_log.totals.student_tokens == 2 * tokens == trainer.training_log.totals.teacher_tokens
    assert figures["loss_kd"] == pytest.approx(float(parts.kd) / tokens)
    assert figures["loss_ce"] == pytest.approx(float(parts.ce) / tokens)


def test_all_shapes_of_all_students_are_compiled_and_those_of_a_probe_are_not(
    tmp_path, toy_model, toy_tokenizer, batch
):
    """Dynamo counts the graphs of a teacher and of all its students together, as they share their code."""
    _, blocks = batch
    texts = ["she saw her book", "his king", "he was the king of her land"]
    swapper = Swapper(load_wordlist("english_gender"))
    alone = list(pack(texts, toy_tokenizer, swapper, 24, PackingCounts(), one_document=True))
    teacher = toy_model(seed=9, n_layer=1)
    torch._dynamo.reset()
    counters.clear()
    backend = {"torch_compile": True, "torch_compile_backend": "eager"}
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=True):
        for seed, augment in ((1, True), (2, False)):
            target = TargetConfig(op="expmean" if augment else "none", augment=augment)
            student = toy_model(seed=seed, n_layer=1).train()
            trainer = make_trainer(tmp_path, student, teacher, blocks, target, LossConfig(), **backend)
            assert all(try_documents(backbone(model)) for model in (teacher, student))  # as on a GPU
            for rows in (blocks[:1], blocks, alone[:1], alone):
                trainer.compute_loss(student, Collator(1 + augment, augment)(rows)).backward()
        compiled = counters["stats"]["unique_graphs"]
        assert compiled > 8 and counters["frames"]["ok"] == counters["frames"]["total"]
        assert not counters["unimplemented"]

        lengths = []

        def probe(model):
            for length in (3, 5, 9):
                model(input_ids=torch.ones(1, length, dtype=torch.long))
                lengths.append(length)
            return SoFar(None, None, "toy", 0)

        state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=1)
        Probing(trainer, probe, None).on_train_begin(trainer.args, state, SimpleNamespace())
        assert lengths == [3, 5, 9] * 2 and counters["stats"]["unique_graphs"] == compiled


def test_the_teachers_hidden_states_outlive_the_cuda_graph_that_wrote_them(tmp_path, toy_model, batch, monkeypatch):
    """As one, a body gives the same memory each time, and writes the student's numbers there."""
    inputs, blocks = batch
    target = TargetConfig(op="expmean", augment=True)
    parts = []
    for graphs in (False, True):
        student, teacher = toy_model(seed=1, n_layer=1), toy_model(seed=9, n_layer=1)
        trainer = make_trainer(tmp_path, student, teacher, blocks, target, LossConfig(ce=0.3))
        monkeypatch.setattr("distill.training.trainer.uses_cuda_graphs", lambda _, graphs=graphs: graphs)
        memory = []

        def written_over(body, args, output, memory=memory):
            memory[:] = memory or [torch.empty_like(output.last_hidden_state)]
            if not output.last_hidden_state.requires_grad:
                output.last_hidden_state = memory[0].copy_(output.last_hidden_state)
            else:
                memory[0].fill_(torch.nan)
            return output

        for model in (student, teacher) if graphs else ():
            backbone(model).register_forward_hook(written_over)
        parts.append(trainer._loss_parts(student, inputs)[0].total)
    assert parts[0].isfinite() and torch.equal(*parts)


def test_workers_that_stay_for_the_next_epoch_end_with_the_training(tmp_path, toy_model, batch):
    """Also where the trainer is in a circle, as with a probe: nobody collects it at once."""
    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    trainer = make_trainer(tmp_path, toy_model(), None, batch[1], TargetConfig(), LossConfig(kd=0, ce=1), **workers)
    trainer.circle = trainer
    trainer.train()
    assert not multiprocessing.active_children()


def test_an_optimizer_goes_on_as_this_machine_makes_it_and_not_as_that_which_saved_it(tmp_path, toy_model, batch):
    """A GPU's leaves out by itself what is not finite, which torch refuses of one that began on a CPU."""
    made = [batch[1], TargetConfig(), LossConfig(kd=0, ce=1)]
    options = {"save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-3}
    weights = {}
    for name, optimizers in (("cpu", ["adamw_torch"] * 2), ("gpu", ["adamw_torch", "adamw_torch_fused"])):
        student = toy_model()
        for step, optimizer in enumerate(optimizers):
            trainer = make_trainer(
                tmp_path / name, student, None, *made, **options, optim=optimizer, max_steps=step + 1
            )
            trainer.train(resume_from_checkpoint=str(tmp_path / name / "checkpoint-1") if step else None)
        weights[name] = [weight.detach().clone() for weight in student.parameters()]
    inner = trainer.optimizer.optimizer
    assert [group["fused"] for group in inner.param_groups] == [True] * len(inner.param_groups)
    for ours, theirs in zip(weights["gpu"], weights["cpu"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    inner.found_inf = torch.ones(())
    for weight in student.parameters():
        weight.grad = torch.full_like(weight, torch.inf)
    inner.step()
    assert all(torch.equal(*pair) for pair in zip(student.parameters(), weights["gpu"], strict=True))
