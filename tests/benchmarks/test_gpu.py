"""What is measured on a GPU, tried on a CPU: the step of two views, sampling, the suite, `gpu.sh` and its report."""

import argparse
import copy
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from shared import REPOSITORY

from distill.text.counterfactual import Swapper
from distill.text.prompts import without_listed_words
from distill.text.wordlist import load_wordlist

BENCHMARKS = REPOSITORY / "tests" / "benchmarks"


def test_the_pair_of_two_views_differs_in_few_tokens_and_is_aligned():
    import step

    row = np.arange(1000, dtype=np.int32)
    block = step.pair_block(row, 2, 1000)
    assert (block.input_ids[0] == row).all() and 5 < (block.input_ids[1] != row).sum() < 60
    assert (block.labels[:, :-1] == block.input_ids[:, 1:]).all() and (block.labels[:, -1] == -100).all()
    assert (block.boundaries[0] == block.boundaries[1]).all()
    one = step.pair_block(row, 1, 1000)
    assert one.input_ids.shape == (1, 1000)
    assert step.role_map(50257).vocab_size == 50257


@pytest.mark.slow
def test_sampling_counts_what_it_writes(tmp_path):
    shape = ("--texts", "3", "--batch_size", "2", "--new_tokens", "5", "--layers", "1", "--repeats", "3")
    shape += ("--promise", "2", "--save", str(tmp_path / "sampling.json"))
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "sampling.py"), "--json", *shape], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert figures == json.loads((tmp_path / "sampling.json").read_text())
    assert set(figures["sampling"]) == {"demo", "gpt2_124m"}
    for found in figures["sampling"].values():
        assert found["texts"] == 3 and 0 < found["tokens"] <= 3 * 7
        assert found["tokens_per_second"] == pytest.approx(found["tokens"] / found["seconds"])
        slowest, fastest = found["tokens_per_second_range"]
        assert slowest <= found["tokens_per_second"] <= fastest and found["n"] == 3
        assert found["changed"] == 0 and found["compared"] == 2


def test_sampling_goes_on_where_a_model_fails(monkeypatch, capsys):
    import sampling

    def measure(name, options):
        yield {"tokens_per_second": 6.0}
        if name == "demo":
            raise torch.cuda.OutOfMemoryError("no memory")
        yield {"tokens_per_second": 7.0}

    monkeypatch.setattr(sampling, "measure", measure)
    monkeypatch.setattr(sampling, "promise", lambda name, options: iter([{"changed": 0}]))
    saved = []
    options = argparse.Namespace(models=["demo", "gpt2_124m"], promise=5)
    found, whole = sampling.find(options, lambda of: saved.append(copy.deepcopy(of)))
    demo = {"tokens_per_second": 6.0}  # of the repeat that came through
    assert found == {"demo": demo | {"changed": 0}, "gpt2_124m": {"tokens_per_second": 7.0, "changed": 0}} and not whole
    rates = [{name: of["tokens_per_second"] for name, of in told.items()} for told in saved]
    assert rates[:3] == [{"demo": 6.0}, {"demo": 6.0, "gpt2_124m": 6.0}, {"demo": 6.0, "gpt2_124m": 7.0}]
    assert saved[-1] == found
    assert "demo is left out: OutOfMemoryError: no memory" in capsys.readouterr().err


def test_prompts_are_made_up_as_bold_has_them():
    import suite

    swapper = Swapper(load_wordlist("english_gender"))
    prompts = suite.made_up_prompts(1_100)
    assert without_listed_words(prompts, swapper) == (prompts, 0)
    words = [len(prompt.text.split()) for prompt in prompts]
    assert set(words) == {6, 7} and 6.3 < sum(words) / len(words) < 6.5  # BOLD's are 6.45 on average
    assert len({prompt.group for prompt in prompts}) == 18 and len({prompt.subject for prompt in prompts}) == 1_064
    documents = suite.made_up_documents(8)
    assert all(swapper.matches(text) for text in documents) and len(set(documents)) == 8


def test_a_metrics_seconds_are_told_as_soon_as_it_is_measured(toy_model, toy_tokenizer):
    import suite

    told = []
    with suite.timed(lambda metric, seconds: told.append((metric, seconds))):
        suite.score(
            {"toy": (toy_model(), toy_tokenizer)}, texts=["She said that he was late."], prompts=["The nurse said"],
            metrics=["next_word_disparity", "perplexity"], bootstrap=10,
        )  # fmt: skip
    assert [metric for metric, _ in told] == ["next_word_disparity", "perplexity"]
    assert all(seconds > 0 for _, seconds in told)


SETTING = {"rows": 8, "matrix_rate_tflops": 700.5}


def saved_step(**losses: list[float]) -> dict:
    """What step.py saves of contenders that compute the same."""
    record = {
        "seconds": 0.05, "seconds_range": [0.05, 0.05], "bytes": 2**31, "tokens_per_second": 163840.0,
        "matrix_rate_share": 0.3, "runs": 1, "steps": 32, "computes": "forward KL",
        "each_step": {"least": 0.04, "median": 0.05, "most": 0.08},
    }  # fmt: skip
    return {"contenders": {name: record | {"losses": of} for name, of in losses.items()}, "setting": SETTING}


def test_the_report_has_what_was_measured_and_lacks_what_failed(tmp_path):
    import gpu_report

    (tmp_path / "step.json").write_text(json.dumps(saved_step(ours_forward_kl=[2.0, 1.0], gkd_forward_kl=[2.0, 1.01])))
    (tmp_path / "suite.json").write_text('{"seconds": null, "metrics": {"perplexity": 3.5}}')
    (tmp_path / "sampling.json").write_text('{"sampling": {"demo": {"tokens_per_second": 5.0}}}')
    (tmp_path / "quickstart.json").write_text('{"imports": 9.5, "after_imports": 50.5}')
    (tmp_path / "loss.json").write_text('{"contenders": {}}')  # without the setting: not as loss.py saves it
    for name, ended in (("quickstart", "0 100.5 160.75"), ("compiled", "124 90 100.25"), ("loss", "1 170 180")):
        (tmp_path / f"{name}.ended").write_text(ended)
    found = gpu_report.report(tmp_path, "[gw1] [ 50%] PASSED tests/a.py::b\n[gw0] [100%] FAILED tests/a.py::c\n")
    assert found["step"].keys() == {"ours_forward_kl", "gkd_forward_kl"} and found["setting"] == SETTING
    assert found["step"]["ours_forward_kl"] == {
        "ms": 50.0, "row_tokens_per_second": 163840.0, "matrix_rate_share": 0.3, "peak_gib": 2.0, "n": 32,
        "ms_least": 40.0, "ms_median": 50.0, "ms_most": 80.0,
    }  # fmt: skip
    assert found["losses_differ"] == {"gkd_forward_kl": pytest.approx(0.01)}
    assert found["matrix_rate_tflops"] == 700.5 and found["tests"] == {"passed": 1, "failed": 1}
    assert found["suite"]["metrics"] == {"perplexity": 3.5} and found["sampling"]["demo"] == {"tokens_per_second": 5.0}
    assert found["quickstart_seconds"] == 60.25 and found["quickstart_seconds_after_imports"] == 50.5
    assert "step_compiled" not in found and "loss" not in found
    assert found["unread"] == {"loss_alone": "KeyError: 'setting'"}
    assert found["parts"] == {
        "compiled": {"ended": "stopped at its limit", "seconds": 10.25},
        "quickstart": {"ended": "well", "seconds": 60.25},
        "loss": {"ended": "with exit code 1", "seconds": 10.0},
    }
    assert list(found["parts"]) == ["compiled", "quickstart", "loss"]


def test_a_cards_matrix_rate_is_measured_unless_it_is_given(monkeypatch):
    import common

    assert 0 < common.matrix_rate("cpu", size=512, repeats=3) < 1e3
    monkeypatch.setattr(common, "matrix_rate", lambda device: 788.26)
    for device, given, used in (("cuda", None, 788.3), ("cuda", 989.0, 989.0), ("cpu", None, None)):
        options = argparse.Namespace(device=device, peak_tflops=given)
        common.find_peak(options)
        assert options.peak_tflops == used


# A Python that measures nothing: it tells for what it was called, saves what such a part may have found, takes its
# time or fails where it shall, and writes the report as the real one does.
FAKE = """#!/usr/bin/env bash
[[ "$1" == *gpu_report.py ]] && exec {python} "$@"
while (($#)); do
    case "$1" in
        --save) file="$2" ;;
        -m) file=tests.json ;;
    esac
    shift
done
name="$(basename "$file" .json)"
echo "$name $PYTHONPATH $$" | tee -a "{told}"
case "$name" in
    step) echo '{step}' >"$file" ;;
    suite) echo '{{"seconds": 7.0}}' >"$file" ;;
    quickstart) echo '{{"after_imports": 0.5}}' >"$file" ;;
esac
for part in $SLOW; do [ "$part" = "$name" ] && exec sleep 60; done
for part in $FAILING; do [ "$part" = "$name" ] && exit 3; done
exit 0
"""


def pretend(folder, **environment: str) -> tuple[subprocess.Popen, dict[str, str]]:
    """gpu.sh, started with that Python in place of the real one; and where it says what it was called for."""
    told, python = folder / "told", folder / "python"
    step = json.dumps(saved_step(ours_forward_kl=[1.0]))
    python.write_text(FAKE.format(python=sys.executable, told=told, step=step))
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "SLOW": "", "FAILING": "", "DEVICE": "cpu", **environment}
    command = ["bash", str(BENCHMARKS / "gpu.sh"), str(folder / "out")]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), told


def written(folder) -> dict:
    """gpu.json."""
    return json.loads((folder / "out" / "gpu.json").read_text())


def test_parts_that_fail_or_run_into_their_limits_lose_nothing_of_the_others(tmp_path):
    process, told = pretend(
        tmp_path, PYTHONPATH="/carried", FAILING="sampling loss", SLOW="step", LIMITS="step=1", TMPDIR=str(tmp_path)
    )
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    found = written(tmp_path)
    order = ["step", "sampling", "quickstart", "suite", "loss", "compiled", "tests"]
    assert list(found["parts"]) == order
    ended = {name: part["ended"] for name, part in found["parts"].items()}
    assert ended.pop("step") == "stopped at its limit" and 1 <= found["parts"]["step"]["seconds"] < 5
    assert {name for name, how in ended.items() if how == "with exit code 3"} == {"sampling", "loss"}
    assert {how for how in ended.values()} == {"well", "with exit code 3"}
    # What was saved before it failed, or was stopped, is there.
    assert found["matrix_rate_tflops"] == 700.5 and found["step"]["ours_forward_kl"]["ms"] == 50.0
    assert found["suite"]["seconds"] == 7.0 and found["quickstart_seconds"] < 5
    assert found["quickstart_seconds_after_imports"] == 0.5
    assert json.loads(said) == found
    # What is carried is found, and nothing but a few files is left: eight come back from a lent machine.
    assert {line.split()[1] for line in told.read_text().splitlines()} == {f"{REPOSITORY}:/carried"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["figures.json", "gpu.json", "gpu.log"]
    assert "loss: exit code 3; see gpu.log" in (tmp_path / "out" / "gpu.log").read_text()
    assert not list(tmp_path.glob("tmp.*"))


def test_the_end_of_the_script_loses_nothing_that_was_saved(tmp_path):
    process, told = pretend(tmp_path, PARTS="suite step", SLOW="suite", EVERY="0.3", TMPDIR=str(tmp_path))
    report = tmp_path / "out" / "gpu.json"
    while "suite" not in (json.loads(report.read_text()) if report.exists() else ""):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    os.kill(int(told.read_text().split()[-1]), signal.SIGKILL)
    process.communicate()
    found = written(tmp_path)
    assert found["parts"].keys() == {"step"} and found["step"]["ours_forward_kl"]["n"] == 32
    assert found["suite"]["seconds"] == 7.0  # of the part that ran


def test_parts_for_which_no_time_is_left_do_not_begin(tmp_path):
    """Nor do those with less than half of their limits: a process would load and compile, and measure nothing."""
    process, _ = pretend(tmp_path, SLOW="sampling", TOTAL="4", LIMITS="step=9 sampling=6")
    _, errors = process.communicate(timeout=60)
    found = written(tmp_path)["parts"]
    assert process.returncode == 0 and list(found) == ["sampling"], errors
    assert "step: no time left, not half of its 9 s" in errors
    assert re.search(r"sampling: at most [34] s", errors)
    assert found["sampling"]["ended"] == "stopped at its limit" and found["sampling"]["seconds"] < 9
    assert all(f"{name}: no time left" in errors for name in ("quickstart", "suite", "tests"))


def test_the_limits_leave_room_on_a_machine_that_is_lent_for_ten_minutes_a_command():
    script = (BENCHMARKS / "gpu.sh").read_text()
    named = re.findall(r"\[(\w+)\]=(\d+)", re.search(r"declare -A limit=\((.*?)\)", script)[1])
    limits = {name: int(seconds) for name, seconds in named}
    assert int(re.search(r"TOTAL:-(\d+)", script)[1]) + 5 < 8 * 60  # one that has to be killed takes 3 more
    # What shall be done in 60 and 180 seconds behind the imports, which take 20, can show it, and misses too.
    assert limits["quickstart"] > 100 and limits["suite"] >= 180 + 20
    assert limits["step"] + limits["sampling"] + limits["quickstart"] + 100 < 470  # and leaves time for the suite
    parts = re.search(r'parts="\$\{PARTS:-(.*?)\}"', script)[1].split()
    assert parts == list(limits) == re.findall(r"^part(?:_step)? (\w+) ", script, flags=re.MULTILINE)


def test_wheels_have_the_versions_of_the_tests():
    """All are pinned, so that the line in gpu.sh gives the versions that the tests run with."""
    names = {
        line for line in (BENCHMARKS / "gpu-wheels.txt").read_text().splitlines() if line and not line.startswith("#")
    }
    pins = {line.partition("==")[0] for line in (REPOSITORY / "constraints.txt").read_text().splitlines()}
    assert names <= pins


@pytest.mark.slow
def test_the_script_measures_on_a_cpu_too(tmp_path):
    """The real step and loss, of toy sizes, beside a quickstart that fails."""
    toy = "--rows 2 --tokens 32 --vocabulary 512 --width 64"
    environment = {
        "PARTS": "step quickstart loss", "QUICKSTART": "none.yaml", "DEVICE": "cpu", "PYTHON": sys.executable,
        "STEP": f"{toy} --layers 2 --steps 2 --peak-tflops 2 --contenders ours_two_view_augment",
        "LOSS": f"{toy} --repeats 2 --contenders ours naive", "LIMITS": "step=300 loss=300",
    }  # fmt: skip
    command = ["bash", str(BENCHMARKS / "gpu.sh"), str(tmp_path / "out")]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = written(tmp_path)
    how = {name: part["ended"] for name, part in found["parts"].items()}
    log = (tmp_path / "out" / "gpu.log").read_text()
    assert how == {"step": "well", "quickstart": "with exit code 2", "loss": "well"}, log
    assert found["step"].keys() == {"ours_two_view_augment"} and found["step"]["ours_two_view_augment"]["n"] == 2
    assert 0 < found["step"]["ours_two_view_augment"]["matrix_rate_share"] < 1
    assert found["loss"].keys() == {"ours", "naive"} and found["loss"]["ours"]["n"] == 2
    assert "quickstart_seconds" not in found and "none.yaml" in log
