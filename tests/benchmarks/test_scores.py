"""All scores on real models, with real data (slow): each gives a figure or says why not, and what they may cost."""

import json
import math
import os
import subprocess
import sys
import time

import pytest
from shared import REPOSITORY

from distill.metrics import METRICS
from distill.models.generation import generate
from distill.models.loading import load_model, load_tokenizer
from distill.text.prompts import load_prompts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(6 * 3600)]

MINUTE = 60.0


@pytest.mark.parametrize("model", ["demo", "SmolLM2"])
def test_every_metric_runs_on(model, tmp_path, shared_data):
    """tests/benchmarks/scores.py, which the tables of SCORES.md come from; SmolLM2 takes hours."""
    source = "demo" if model == "demo" else os.environ.get("DISTILL_SMOLLM2")
    if source is None:
        pytest.skip("DISTILL_SMOLLM2 names no folder with SmolLM2-135M")
    texts = shared_data("corpus", "wikipedia_people.validation.jsonl.xz")
    out = tmp_path / "scores.json"
    command = [sys.executable, str(REPOSITORY / "tests/benchmarks/scores.py"), source, "--out", str(out)]
    command += ["--data", str(texts.parent.parent), "--texts", str(texts), "--max_documents", "200"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text(encoding="utf-8"))["metrics"]
    assert found.keys() == METRICS.keys()
    for of_metric in found.values():
        for score in of_metric["scores"].values():
            if score["value"] is None:
                assert score["details"]["reason"]
            else:
                assert math.isfinite(score["value"])
                assert score["n"] > 0
    seconds = sum(of_metric["processor_seconds"] for of_metric in found.values())
    print(f"{model}: {seconds:.0f} s of processor time")
    if model == "demo":
        assert seconds < 10 * MINUTE


def test_all_profession_prompts_of_bold_are_continued_in_minutes(shared_data):
    prompts = [prompt.text for prompt in load_prompts(shared_data("bold", "prompts", "profession_prompt.json"))]
    assert len(prompts) == 10_195
    model, tokenizer = load_model("demo"), load_tokenizer("demo")
    begun = time.process_time()
    texts = generate(model, tokenizer, prompts, samples=1, max_new_tokens=40, seed=0)
    seconds = time.process_time() - begun
    print(f"{len(texts)} texts: {seconds:.0f} s of processor time")
    assert sum(bool(of_prompt[0].strip()) for of_prompt in texts) > 0.9 * len(prompts)
    assert seconds < 5 * MINUTE
