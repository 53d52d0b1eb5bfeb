"""The benchmarks of the loss and of the training step: that they compare like with like, and (slow) what they find."""

import argparse
import importlib
import json
import math
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.autograd import DeviceType
from transformers import Trainer, TrainerCallback, TrainingArguments

from distill.models.architecture import head, hidden_states

BENCHMARKS = Path(__file__).parent
TOY = ("--tokens", "64", "--vocabulary", "512", "--width", "32")
TOY_STEP = argparse.Namespace(
    vocabulary=512,
    width=64,
    layers=2,
    rows=2,
    tokens=64,
    steps=1,
    device="cpu",
    dtype="float32",
    compile=False,
    together=False,
)
# What a GPU is measured with, but for the device.
HALF = ("--device", "cpu", "--dtype", "bfloat16", "--rows", "3", "--peak-tflops", "0.5")


# Of TRL's own making, where it is installed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def load():
    """A function from a benchmark's name to its module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module
    for name in ("common", "loss", "step"):
        sys.modules.pop(name, None)


def there(contenders) -> list[str]:
    """The contenders that can run here at once: packages installed, nothing to compile."""
    names = [name for name, c in contenders.items() if c.package is None or find_spec(c.package)]
    return [name for name in names if not any(getattr(contenders[name], of, None) for of in ("compiles", "mode"))]


def run_script(name: str, *options: str) -> dict:
    command = [sys.executable, str(BENCHMARKS / name), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_contenders_of_the_loss_agree(load):
    loss = load("loss")
    x = loss.make_inputs(64, 512, 32)
    records = {name: [loss.run(x, loss.CONTENDERS[name])] for name in there(loss.CONTENDERS)}
    loss.check_agreement(records)
    assert {"ours", "naive", "ours_two_view", "naive_two_view"} <= set(records)


def test_the_naive_two_view_loss_is_the_formula(load):
    """Both contenders of the two views are of this package; here is what they should say, written out."""
    loss = load("loss")
    x = loss.make_inputs(64, 512, 32)
    own, other = (torch.log_softmax(h @ x.teacher_weight.T, -1) for h in x.teacher_hidden.chunk(2))
    target = own.exp()
    there = x.partner[0] >= 0
    reversed_ = x.role_map.reverse(own, other).exp()
    target[there] = (target[there] + reversed_[there]) / 2
    student = torch.log_softmax(x.hidden @ x.weight.T, -1)
    expected = (target * (target.log() - student)).sum() / 64
    got = loss.run(x, loss.CONTENDERS["naive_two_view"])["loss"]
    assert 0 < int(there.sum()) < 64
    assert got == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [("loss", 1.01), ("weight_norm", 2.1), ("hidden_norm", math.nan), ("weight_entries", [1.0, 0.9])],
)
def test_contenders_that_disagree_stop_the_benchmark(load, field, value):
    loss = load("loss")
    good = {
        "loss": 1.0,
        "hidden_norm": 1.0,
        "weight_norm": 2.0,
        "hidden_entries": [1.0, 2.0],
        "weight_entries": [1.0, 1.0],
    }
    loss.check_agreement({"ours": [good], "naive": [good, good]})
    with pytest.raises(RuntimeError, match=r"naive and ours disagree"):
        loss.check_agreement({"ours": [good], "naive": [good, {**good, field: value}]})


def test_ratios_are_ours_over_theirs_and_null_where_a_peer_is_missing(load):
    loss = load("loss")

    def runs(*figures):
        return [{"seconds": seconds, "bytes": size} for seconds, size in figures]

    figures = loss.report(
        {
            "ours": runs((2, 10), (3, 30), (100, 20)),
            "naive": runs((4, 80), (6, 70), (5, 1)),
            "ours_forward_kl": runs((1, 10)),
            "ours_two_view": runs((2, 11)),
            "naive_two_view": runs((8, 99)),
        }
    )
    ratios = json.loads(json.dumps(figures))["ratios"]
    peers = {"naive", "gkd_forward_kl", "gkd_jsd", "trl_chunked", "liger"}
    assert set(ratios) == {"memory", "time", "two_view"}
    assert set(ratios["memory"]) == set(ratios["time"]) == peers
    assert ratios["memory"]["naive"] == pytest.approx(20 / 70)
    assert ratios["time"]["naive"] == pytest.approx(3 / 5)
    assert ratios["two_view"] == {"memory": pytest.approx(11 / 10), "time": pytest.approx(2 / 8)}
    assert all(ratios[kind][peer] is None for kind in ("memory", "time") for peer in peers - {"naive"})


def test_memory_is_the_peak_above_what_was_there(load):
    common = load("common")
    kept = torch.ones(2**22)  # there before: 16 MiB that do not count

    def run():
        return {"sum": float((torch.ones(2**24) * kept[0]).sum())}  # two of 64 MiB at a time

    record = common.measure(run)
    assert record["sum"] == 2**24
    assert 126 < record["bytes"] / 2**20 < 136
    assert record["seconds"] > 0


@pytest.mark.parametrize(("device", "size"), [("cpu", 500 - 180), ("cuda", 500 - 100)])
def test_what_is_kept_on_a_card_counts_and_what_is_read_of_the_outcome_takes_no_time(load, monkeypatch, device, size):
    common, did = load("common"), []
    settled = iter([100, 180])  # before the first call, and after it
    monkeypatch.setattr(common, "settle_memory", lambda device: next(settled))
    monkeypatch.setattr(common, "peak_memory", lambda device: 500 + 1000 * (did[-1] == "read"))
    monkeypatch.setattr(common, "seconds", lambda device: 1.0 * did.count("run") + 10 * did.count("read"))

    def read(of):
        did.append("read")
        return {"loss": of}

    record = common.measure(lambda: did.append("run") or 0.5, device, read)
    assert record == {"seconds": 1.0, "bytes": size, "loss": 0.5} and did == ["run", "read"] * 2


def test_what_others_left_is_let_go_of_before_memory_is_counted(load, monkeypatch):
    loss, counted = load("loss"), []
    x = loss.make_inputs(64, 512, 32)
    loss.backward(x, loss.CONTENDERS["ours"])  # as a profile does
    loss.kd_loss._PADDED_HEADS[x.teacher_weight] = None
    kept = loss.kd_loss._PADDED_HEADS
    monkeypatch.setattr(loss.common, "settle_memory", lambda device: counted.append((x.weight.grad, len(kept))) or 0)
    loss.measure("ours", argparse.Namespace(device="cpu", dtype="float32", compile=False, profile=None), x)
    assert counted[0] == (None, 0)


def test_a_gpu_waits_for_no_plan_of_the_chunks(load, monkeypatch):
    """In training it comes with the batch; the loss and its gradients are those of a call that plans."""
    loss = load("loss")
    x, planned = loss.make_inputs(64, 512, 32), []
    plan_chunks = loss.plan_chunks
    monkeypatch.setattr(loss, "plan_chunks", lambda *given: planned.append(given) or plan_chunks(*given))
    for name in ("ours_forward_kl", "ours_two_view", "ours_augmented"):
        contender = loss.CONTENDERS[name]
        expected = loss.run(x, contender)
        assert not planned
        with loss.planned_once("cuda"):
            assert loss.run(x, contender) == expected and loss.run(x, contender) == expected
        assert len(planned) == 1
        planned.clear()
        with loss.planned_once("cpu"):
            assert loss.run(x, contender) == expected
        assert not planned


@pytest.mark.slow
def test_the_script_prints_what_was_promised():
    figures = run_script("loss.py", "--json", "--repeats", "1", "--contenders", "ours", "naive", *TOY)
    assert set(figures["contenders"]) == {"ours", "naive"}
    assert figures["ratios"]["time"]["naive"] > 0 and figures["ratios"]["memory"]["liger"] is None
    assert figures["setting"]["tokens"] == 64 and figures["setting"]["threads"] == 1
    assert figures["setting"]["versions"]["torch"]


@pytest.mark.slow
def test_half_precision_rates_and_profile_of_the_loss(tmp_path):
    names = ("ours", "naive", "ours_two_view", "naive_two_view")
    figures = run_script(
        "loss.py", "--json", "--repeats", "1", "--contenders", *names, *TOY, *HALF, "--profile", str(tmp_path)
    )
    assert figures["setting"]["dtype"] == "bfloat16" and figures["setting"]["rows"] == 3
    for name in names:
        record = figures["contenders"][name]
        assert record["tokens_per_second"] == pytest.approx(3 * 64 / record["seconds"])
        # The products of three passes over the student's head and, for each view, one over the teacher's.
        share = (5 if "two_view" in name else 4) * 2 * 512 * 32 * record["tokens_per_second"] / 0.5e12
        assert record["matrix_rate_share"] == pytest.approx(share)
        assert "mm" in (tmp_path / f"{name}.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("together", [(), ("--together",)])
def test_half_precision_rates_and_profile_of_the_step(tmp_path, together):
    shape = ("--tokens", "64", "--vocabulary", "512", "--width", "64", "--layers", "2", "--steps", "1")
    names = ["ours_forward_kl"] + ["gkd_forward_kl"] * bool(find_spec("trl"))
    figures = run_script(
        "step.py",
        "--json",
        "--repeats",
        "1",
        "--contenders",
        *names,
        *shape,
        *HALF,
        *together,
        "--profile",
        str(tmp_path),
    )
    assert set(figures["ratios"]) == {"memory", "time"}
    assert set(figures["ratios"]["time"]) == {"gkd_forward_kl", "gkd_jsd", "trl_chunked"}
    for name in names:
        record = figures["contenders"][name]
        assert record["tokens_per_second"] == pytest.approx(3 * 64 / record["seconds"])
        assert 0 < record["matrix_rate_share"] < 1
        if together and not name.startswith("ours"):
            continue
        assert "mm" in (tmp_path / f"{name}.txt").read_text()


def test_the_floor_of_the_step_counts_the_models_weights(load):
    """GPT-2 124M: 85.1M weights in its layers' products and 38.6M in its head; and attention over half of the pairs."""
    step = load("step")
    one_token = step.forward_flops(50257, 768, 12, 1024)
    assert one_token == pytest.approx(2 * (84_934_656 + 38_597_376) + 12 * 4 * 768 * 1024 / 2, rel=1e-3)
    student = step.forward_flops(50257, 768, 6, 1024)
    assert 2 * one_token + 3 * student == pytest.approx(1.05e9, rel=0.01)


class Epochs(TrainerCallback):
    begun = 0

    def on_epoch_begin(self, *_, **__):
        self.begun += 1


def watched(make, read):
    """As `make`, of a trainer whose batches are added to `read`."""

    def made(*given):
        trainer = make(*given)
        train = trainer.training_step

        def training_step(model, inputs, *more):
            if isinstance(inputs, list):  # TRL's chunked trainer gets prompts
                texts = trainer._prepare_inputs(inputs)
                read.append(torch.cat([texts["prompt_ids"], texts["completion_ids"]], dim=1).tolist())
            else:
                read.append(inputs["input_ids"].tolist())
            return train(model, inputs, *more)

        trainer.training_step = training_step
        return trainer

    return made


@pytest.fixture(scope="module")
def trained(load):
    """Of each contender of the step that can run here: its losses, the batches that it read, the epochs that began."""
    step, found = load("step"), {}
    for name in there(step.CONTENDERS):
        epochs, read, contender = Epochs(), [], step.CONTENDERS[name]
        _, losses = step.train(replace(contender, trainer=watched(contender.trainer, read)), TOY_STEP, epochs)
        found[name] = argparse.Namespace(losses=losses, read=read, epochs=epochs.begun)
    return found


def test_trainers_of_the_step_agree(load, trained):
    step = load("step")
    step.check_agreement({name: [{"losses": of.losses}] for name, of in trained.items()})
    losses = trained["ours_forward_kl"].losses
    assert len(losses) == step.WARM_UP["cpu"] + 1 and losses[0] > losses[1] > losses[2]

    teacher, student = step.make_models(512, 64, 2, 64)
    ids = step.make_ids(512, 2, 64)
    positions = torch.arange(64).expand_as(ids)
    with torch.no_grad():
        log_p, log_q = ((hidden_states(m, ids, positions) @ head(m)[0].T).log_softmax(-1) for m in (teacher, student))
    first = (log_p.exp() * (log_p - log_q)).sum(-1)[:, :-1].mean()
    assert losses[0] == pytest.approx(float(first), rel=1e-4)


def test_all_steps_of_a_run_are_one_epoch_of_the_same_batch(load, trained):
    """Between two epochs trainers wait and start their loader anew; a batch in another order would be another step."""
    step = load("step")
    for name, of in trained.items():
        assert of.epochs == 1, name
        assert len(of.read) == step.WARM_UP["cpu"] + TOY_STEP.steps and all(b == of.read[0] for b in of.read), name
        assert of.read[0][:2] == step.make_ids(512, 2, 64).tolist(), name


def test_the_processes_of_a_loader_end_with_their_run(load):
    """TRL's trainers leave them to the garbage collector, which waits for each in vain for five seconds."""
    step, before = load("step"), set(multiprocessing.active_children())

    def make(teacher, student, ids, settings, folder):
        loader = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
        rows = [{"input_ids": row, "labels": row} for row in ids]
        return Trainer(student, TrainingArguments(str(folder), **settings | loader), train_dataset=rows)

    _, losses = step.train(step.Contender(make, "cross-entropy"), TOY_STEP)
    assert len(losses) == step.WARM_UP["cpu"] + TOY_STEP.steps
    assert set(multiprocessing.active_children()) <= before


class CardClock:
    """Stands in for a card's events: the n-th that is recorded comes n milliseconds after the one before."""

    recorded = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        CardClock.recorded += 1
        self.number = CardClock.recorded

    def elapsed_time(self, other):
        return sum(range(self.number + 1, other.number + 1))


def test_the_clock_of_a_gpu_waits_only_at_both_ends(load, monkeypatch):
    step, waits = load("step"), []
    monkeypatch.setattr(step.torch.cuda, "Event", CardClock)
    monkeypatch.setattr(step.torch.cuda, "synchronize", lambda: waits.append("end"))
    monkeypatch.setattr(step.common, "settle_memory", waits.append)
    CardClock.recorded, clock = 0, step.Clock("cuda")
    warm_up = step.WARM_UP["cuda"]
    for at in range(warm_up + 3):
        clock.on_step_begin(None, argparse.Namespace(global_step=at))
        clock.on_step_end(None, argparse.Namespace(global_step=at + 1, max_steps=warm_up + 3))
    assert waits == ["cuda", "end"]
    assert clock.seconds == [0.002, 0.003, 0.004]  # of the four marks from the end of the warm-up on


@pytest.mark.parametrize("compiled", [False, True])
def test_what_torch_compiled_for_a_toy_is_not_measured(load, monkeypatch, compiled):
    """It would remember the toy's shapes, and compile the real step for any."""
    step, tokens = load("step"), []

    def train(contender, shape):
        tokens.append(shape.tokens)
        return argparse.Namespace(seconds=[9.0, 9.0, 0.5]), [1.0]

    monkeypatch.setattr(step, "train", train)
    record = step.measure(step.CONTENDERS["ours_jsd"], argparse.Namespace(**{**vars(TOY_STEP), "compile": compiled}))
    assert tokens == ([64] if compiled else [8, 64])
    assert record["seconds"] == 0.5 and record["each_step"] == {"least": 0.5, "median": 0.5, "most": 0.5}


@pytest.mark.parametrize("name", ["ours_forward_kl", "ours_two_view_augment"])
def test_cuda_graphs_are_contenders_beside_what_is_compiled_without(load, monkeypatch, capsys, name):
    step, settings = load("step"), {}

    class Made(Exception):
        pass

    def make(teacher, student, ids, given, folder):
        settings.update(given)
        raise Made

    plain, graphs = step.CONTENDERS[name], step.CONTENDERS[f"{name}_graphs"]
    assert graphs == replace(plain, mode=graphs.mode)
    for contender, mode in ((plain, None), (graphs, "reduce-overhead")):
        with pytest.raises(Made):
            step.train(replace(contender, trainer=make), argparse.Namespace(**{**vars(TOY_STEP), "compile": True}))
        assert settings["torch_compile"] and settings["torch_compile_mode"] == mode
    monkeypatch.setattr(sys, "argv", ["step.py", "--contenders", f"{name}_graphs"])
    with pytest.raises(SystemExit):
        step.main()
    assert "CUDA graphs need --compile" in capsys.readouterr().err


def test_what_a_card_did_is_told_by_kind(load):
    loss = load("loss")

    def event(name, milliseconds, device=DeviceType.CUDA, annotation=False):
        elapsed = argparse.Namespace(elapsed_us=lambda: 1000 * milliseconds)
        return argparse.Namespace(
            name=name, time_range=elapsed, device_type=device, is_user_annotation=annotation, self_device_time_total=-1
        )

    events = [
        event("_loss_of_row", 3), event("nvjet_sm90_tst_128x256", 4), event("void cutlass::Kernel2", 1),
        event("vectorized_elementwise_kernel", 2), event("Memcpy HtoD", 1), event("step", 90, annotation=True),
        event("aten::mm", 50, device=DeviceType.CPU),
    ]  # fmt: skip
    found = loss.card_times(events, 2 * 4096, {"_loss_of_row"})
    assert found == {"kernel": 1.5, "products": 2.5, "rest": 1.5}


def test_a_contender_that_fails_loses_nothing_of_the_others(load, capsys):
    common, kept = load("common"), []

    def run(name):
        if name == "bad" or (name == "late" and len(kept) > 2):
            raise ImportError("no such peer")
        return {"seconds": 1.0, "bytes": 2**20}

    names = ["bad", "good", "late"]
    records = common.by_turns(names, 2, run, lambda found: kept.append({name: len(of) for name, of in found.items()}))
    assert kept == [{"good": 1}, {"good": 1, "late": 1}, {"good": 2, "late": 1}]
    assert {name: len(of) for name, of in records.items()} == kept[-1]
    told = capsys.readouterr().err
    assert told.count("is left out: ImportError: no such peer") == 2 and "2/2 good: 1 s, 1 MiB" in told
    assert common.exit_code(names, 2, records) == 1 and common.exit_code(["good"], 2, records) == 0


def test_who_compiles_for_long_begins_when_all_others_are_done(load):
    common, ran = load("common"), []
    common.by_turns(["a", "slow", "b"], 2, lambda name: ran.append(name) or {"seconds": 1.0, "bytes": 0}, last=["slow"])
    assert ran == ["a", "b", "a", "b", "slow", "slow"]


def test_a_profiler_that_fails_loses_nothing_of_what_was_measured(load, monkeypatch, tmp_path, capsys):
    loss, saved, profiled = load("loss"), tmp_path / "loss.json", []

    def on_card(x, names, options):
        profiled.extend(names)
        if names == ["ours_jsd"]:
            raise RuntimeError("no such counter")
        return {name: {"kernel": 1.5} for name in names}

    one = {"seconds": 0.5, "bytes": 2**20, "loss": 1.0, "hidden_norm": 1.0, "weight_norm": 1.0}
    one |= {"hidden_entries": [1.0], "weight_entries": [1.0]}
    monkeypatch.setattr(loss, "measure", lambda name, options, x: dict(one))
    monkeypatch.setattr(loss, "inputs_of", lambda options: None)
    monkeypatch.setattr(loss, "on_card", on_card)
    monkeypatch.setattr(loss.common, "machine", lambda device: {})
    names = ["ours_jsd", "naive", "ours"]
    shape = ["--rows", "1", "--peak-tflops", "1", "--repeats", "2", "--save", str(saved), "--json", "--together"]
    monkeypatch.setattr(sys, "argv", ["loss.py", "--device", "cuda", *shape, "--contenders", *names])
    assert loss.main() == 0
    figures = json.loads(saved.read_text())
    assert {name: found["runs"] for name, found in figures["contenders"].items()} == dict.fromkeys(names, 2)
    assert figures["card"] == {"ours": {"kernel": 1.5}} and profiled == ["ours_jsd", "ours"]
    assert "no profile of ours_jsd: RuntimeError: no such counter" in capsys.readouterr().err


def test_figures_are_there_before_and_although_contenders_disagree(load, monkeypatch, tmp_path, capsys):
    step, saved = load("step"), tmp_path / "step.json"

    def alone(script, name, options, threads):
        assert not saved.exists() or "ours_forward_kl" in json.loads(saved.read_text())["contenders"]
        loss = {"ours_forward_kl": 1.0, "ours_jsd": 2.0, "gkd_jsd": 3.0}[name]
        return {"seconds": 0.5, "bytes": 2**20, "losses": [loss], "each_step": {"least": 0.4}}

    monkeypatch.setattr(step.common, "run_alone", alone)
    monkeypatch.setattr(step.common, "available", lambda needs: list(needs))
    names = ["ours_forward_kl", "trl_chunked", "ours_jsd", "gkd_jsd"]  # the second fails: there is no loss for it
    command = ["step.py", "--json", "--repeats", "1", "--save", str(saved), "--contenders", *names]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(RuntimeError, match="gkd_jsd and ours_jsd disagree"):
        step.main()
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads(saved.read_text())
    assert list(figures["contenders"]) == ["ours_forward_kl", "ours_jsd", "gkd_jsd"]
    record = figures["contenders"]["gkd_jsd"]
    assert record["computes"] == "JSD" and record["losses"] == [3.0] and record["each_step"] == {"least": 0.4}
    assert figures["ratios"]["time"] == {"gkd_forward_kl": None, "gkd_jsd": 1.0, "trl_chunked": None}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_loss_keeps_its_targets():
    """GPT-2's shapes, one thread, medians of five runs. Liger's chunks are as small as ours."""
    for package in ("trl", "liger_kernel"):
        pytest.importorskip(package)
    ratios = run_script("loss.py", "--json")["ratios"]
    most = {"naive": 0.25, "gkd_forward_kl": 0.25, "gkd_jsd": 0.12, "liger": 0.65}
    assert {peer: ratios["memory"][peer] for peer in most if ratios["memory"][peer] > most[peer]} == {}
    assert ratios["time"]["naive"] <= 1.15
    assert ratios["two_view"]["memory"] <= 1.1 and ratios["two_view"]["time"] <= 1.15


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_training_step_keeps_its_targets():
    pytest.importorskip("trl")
    ratios = run_script("step.py", "--json")["ratios"]
    assert ratios["time"]["gkd_jsd"] <= 0.9 and ratios["time"]["gkd_forward_kl"] <= 1.0
    assert ratios["memory"]["gkd_jsd"] <= 0.6 and ratios["memory"]["gkd_forward_kl"] <= 0.6
