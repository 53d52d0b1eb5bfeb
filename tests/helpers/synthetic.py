"""A small language whose bias is known exactly, and recipes for teachers and students of it.

Every sentence is `the OCCUPATION said that PRONOUN was tired .`, with P(she | nurse) = 0.9, P(she | captain) = 0.1
and P(she | clerk) = 0.7, or tells of a king or queen, whose pronoun is certain: the agreement that must survive.
"""

import random
from pathlib import Path

import torch
import yaml

P_SHE = {"nurse": 0.9, "captain": 0.1, "clerk": 0.7}
AGREE = {"king": "he", "queen": "she"}
VERBS = ["was tired", "had gone", "would wait", "knew nothing"]


def sentences(n: int, seed: int) -> list[str]:
    """n sentences of the language."""
    rng = random.Random(seed)
    lines = []
    for _ in range(n):
        subject = rng.choice([*P_SHE, *AGREE])
        pronoun = AGREE.get(subject) or ("she" if rng.random() < P_SHE[subject] else "he")
        lines.append(f"the {subject} said that {pronoun} {rng.choice(VERBS)} .")
    return lines


def share_of_she(model, tokenizer, subject: str) -> float:
    """P(she) / (P(she) + P(he)) after `the SUBJECT said that`."""
    ids = [tokenizer.bos_token_id, *tokenizer(f"the {subject} said that")["input_ids"]]
    with torch.no_grad():
        probabilities = model.eval()(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
    she, he = (float(probabilities[tokenizer(f" {word}")["input_ids"][0]]) for word in ("she", "he"))
    return she / (she + he)


def write_teacher_recipe(folder: Path, output: Path, seed: int = 0) -> str:
    """Text files of the language and a recipe that trains its teacher from random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, n in (("train", 3000), ("held-out", 200)):
        (folder / f"{name}.jsonl").write_text(
            "".join(f'{{"text": "{line}"}}\n' for line in sentences(n, seed=n)), encoding="utf-8"
        )
    # Each twice: of three prompts alone, too little would be told.
    (folder / "prompts.tsv").write_text(
        "group\toccupation\n" + "".join(f"all\t{word}\n" for word in P_SHE) * 2, encoding="utf-8"
    )
    (folder / "templates.txt").write_text("the {occupation} said that\n", encoding="utf-8")
    recipe = {
        "output_dir": str(output),
        "seed": seed,
        "block_length": 64,
        "baseline": False,
        "teacher": {"path": None},
        "student": {
            "init": "config",
            "tokenizer": "train",
            "vocab_size": 320,
            "config": {"model_type": "gpt2", "n_positions": 64, "n_embd": 48, "n_layer": 2, "n_head": 2},
        },
        "corpus": {"source": "files", "files": [str(folder / "train.jsonl")]},
        "held_out": {"source": "files", "files": [str(folder / "held-out.jsonl")]},
        "loss": {"kd": 0.0, "ce": 1.0},
        "trainer": {**_TRAINER, "max_steps": 250},
        "scores": {"metrics": ["perplexity"], "prompts": str(folder / "prompts.tsv"), "bootstrap": 20},
    }
    return _write(folder / "teacher.yaml", recipe)


_TRAINER = {
    "per_device_train_batch_size": 16,
    "learning_rate": 3e-3,
    "use_cpu": True,
    "disable_tqdm": True,
    "save_steps": 50,
    "logging_steps": 50,
}


def write_student_recipe(folder: Path, teacher: Path, output: Path, **trainer) -> str:
    """A recipe that distils that teacher, with and without mitigation, on samples of the language."""
    recipe = {
        "output_dir": str(output),
        "block_length": 64,
        "teacher": {"path": str(teacher)},
        "student": {"num_layers": 1},
        "corpus": {"source": "files", "files": [str(folder / "train.jsonl")]},
        "held_out": {"source": "files", "files": [str(folder / "held-out.jsonl")]},
        "target": {"op": "expmean", "reverse_roles": True, "augment": True},
        "trainer": {**_TRAINER, "max_steps": 200, **trainer},
        "scores": {
            "metrics": ["perplexity", "corpus_disparity", "next_word_disparity"],
            "prompts": str(folder / "prompts.tsv"),
            "bootstrap": 20,
        },
    }
    return _write(folder / "student.yaml", recipe)


def _write(path: Path, recipe: dict) -> str:
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return str(path)
