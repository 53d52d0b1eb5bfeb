"""Runs with three groups, from the word list to the scores."""

import json
import math
import random
from itertools import product

import forked
import numpy as np
import pytest
import torch
import yaml
from bundled import NEUTRAL
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.models.student import make_student, train_tokenizer
from distill.recipe import StudentConfig

P_PRONOUN = {"nurse": (0.1, 0.6, 0.3), "captain": (0.6, 0.1, 0.3)}
AGREE = {"man": "he", "woman": "she", "person": "they"}
PRONOUNS = ("he", "she", "they")


def sentences(n: int, seed: int) -> list[str]:
    """n sentences of a language whose bias is known."""
    rng = random.Random(seed)
    lines = []
    for _ in range(n):
        subject = rng.choice([*P_PRONOUN, *AGREE])
        pronoun = AGREE.get(subject) or rng.choices(PRONOUNS, P_PRONOUN[subject])[0]
        verb = rng.choice(["were tired" if pronoun == "they" else "was tired", "had gone", "knew nothing"])
        lines.append(f"the {subject} said that {pronoun} {verb} .")
    return lines


def write_recipe(folder, output, teacher, steps: int, **keys) -> str:
    recipe = {
        "output_dir": str(output),
        "block_length": 64,
        "wordlist": "english_gender_neutral",
        "teacher": {"path": teacher and str(teacher)},
        "corpus": {"source": "files", "files": [str(folder / "train.jsonl")]},
        "held_out": {"source": "files", "files": [str(folder / "held-out.jsonl")]},
        "trainer": {
            "per_device_train_batch_size": 16,
            "learning_rate": 3e-3,
            "use_cpu": True,
            "disable_tqdm": True,
            "max_steps": steps,
            "save_steps": 50,
            "logging_steps": 50,
        },
        **keys,
    }
    path = folder / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """The folder with the texts and prompts of the language."""
    folder = tmp_path_factory.mktemp("three-groups")
    for name, n in (("train", 3000), ("held-out", 60)):
        lines = (json.dumps({"text": line}) + "\n" for line in sentences(n, seed=n))
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    prompts = "".join(f"all\t{word}\n" for word in P_PRONOUN) * 3  # enough to tell
    (folder / "prompts.tsv").write_text("group\toccupation\n" + prompts, encoding="utf-8")
    (folder / "templates.txt").write_text("the {occupation} said that\n", encoding="utf-8")
    return folder


def run(recipe: str) -> None:
    done = forked.run("--config", recipe)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_run_with_three_groups_gives_scores_of_three(language, tmp_path):
    """A few steps from a random teacher: everything that a run writes, with three groups in it."""
    config = {"model_type": "gpt2", "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    texts = sentences(300, seed=1)
    tokenizer = train_tokenizer(texts, 320)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make_student(StudentConfig(init="config", config=config), None, tokenizer, None)
    model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    metrics = ["next_word_disparity", "corpus_disparity", "generation_disparity", "neutral_rate", "perplexity"]
    scores = {"metrics": [*metrics, "equivariance_gap"], "prompts": str(language / "prompts.tsv"), "bootstrap": 10}
    recipe = write_recipe(
        language,
        tmp_path / "run",
        tmp_path / "teacher",
        steps=3,
        baseline=False,
        student={"num_layers": 1},
        target={"op": "expmean", "reverse_roles": True, "augment": True},
        scores={**scores, "samples": 8, "max_new_tokens": 8},
    )
    run(recipe)
    models = json.loads((tmp_path / "run" / "scores.json").read_text())["models"]
    for of_model in models.values():
        for metric in ("next_word_disparity", "corpus_disparity", "perplexity", "equivariance_gap"):
            assert math.isfinite(of_model[metric]["value"]) and of_model[metric]["n"] > 0, metric
        for metric in ("next_word_disparity", "generation_disparity"):
            assert of_model[metric]["details"]["groups"] == ["male", "female", "neutral"]
            assert of_model[metric]["details"]["wordlist"] == NEUTRAL.wordlist.sha256
        assert of_model["generation_disparity"]["n"] == of_model["neutral_rate"]["n"] == 48
    assert set(models) == {"teacher", "student"}


@pytest.mark.slow
def test_known_bias_between_three_groups_is_mitigated(language):
    """Each pronoun comes near one third where nobody's group is told, and agrees where it is."""
    metrics = {"metrics": ["next_word_disparity"], "prompts": str(language / "prompts.tsv"), "bootstrap": 20}
    config = {"model_type": "gpt2", "n_positions": 64, "n_embd": 48, "n_layer": 2, "n_head": 2}
    run(
        write_recipe(
            language,
            language / "teacher",
            None,
            steps=250,
            baseline=False,
            student={"init": "config", "tokenizer": "train", "vocab_size": 320, "config": config},
            loss={"kd": 0.0, "ce": 1.0},
            scores={**metrics, "metrics": ["perplexity"]},
        )
    )
    run(
        write_recipe(
            language,
            language / "run",
            language / "teacher" / "student",
            steps=250,
            student={"num_layers": 1},
            target={"op": "expmean", "reverse_roles": True, "augment": True},
            scores=metrics,
        )
    )

    def shares(path, subject):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
        ids = [tokenizer.bos_token_id, *tokenizer(f"the {subject} said that")["input_ids"]]
        with torch.no_grad():
            probabilities = model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
        masses = [float(probabilities[tokenizer(f" {word}")["input_ids"][0]]) for word in PRONOUNS]
        return [mass / sum(masses) for mass in masses]

    plain, mitigated = language / "run" / "baseline", language / "run" / "student"
    for subject, known in P_PRONOUN.items():
        assert shares(plain, subject) == pytest.approx(known, abs=0.08)
        assert shares(mitigated, subject) == pytest.approx([1 / 3] * 3, abs=0.1)
    for path, (subject, pronoun) in product((plain, mitigated), AGREE.items()):
        assert shares(path, subject)[PRONOUNS.index(pronoun)] > 0.9
    scores = json.loads((language / "run" / "scores.json").read_text())["models"]
    values = {name: scores[name]["next_word_disparity"]["value"] for name in ("baseline", "student")}
    known = np.mean(
        [np.mean([abs(math.log(p[a] / p[b])) for a, b in ((0, 1), (0, 2), (1, 2))]) for p in P_PRONOUN.values()]
    )
    assert values["baseline"] == pytest.approx(known, abs=0.35) and values["student"] < values["baseline"] / 3
