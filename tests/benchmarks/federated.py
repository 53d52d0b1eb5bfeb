"""Time of federated rounds beside plain training of the same steps, the numbers of FEDERATED.md.

python tests/benchmarks/federated.py [STEPS] [CLIENTS] [REPEATS]

One thread; the demo teacher, a student of half its layers, role reversal and augmentation, on text that it wrote. A
round of CLIENTS updates of STEPS steps, its state written, is set beside one training of as many steps on the same
blocks, in turn, in the same process; the least of REPEATS counts for each. Measuring, scoring and loading are in
neither. Seconds are those of a million tokens that the student trains on: a client's last batch of an epoch is small.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from transformers import set_seed

from distill.data.corpus import open_corpus
from distill.data.stream import training_blocks
from distill.federation.clients import client_blocks, get_weights, many_updates
from distill.federation.rounds import State, _round
from distill.models.architecture import vocab_size
from distill.models.loading import load_teacher
from distill.models.student import make_student
from distill.objective.logit_ops import build_role_maps
from distill.recipe import FederationConfig
from distill.recipe_check import parse_recipe
from distill.text.counterfactual import Swapper
from distill.text.role_map import token_roles
from distill.text.wordlist import load_wordlist
from distill.training.run import fit, prepare


def main(steps: int = 10, clients: int = 8, repeats: int = 3) -> None:
    """Print the seconds of both and their ratio."""
    least, _ = measured(steps, clients, repeats)
    for which, kind in enumerate(("wall", "processor")):
        plain, round_ = least["plain"][which], least["round"][which]
        print(f"{kind}: plain {plain:.2f} s, round {round_:.2f} s, ratio {round_ / plain:.3f}")


def measured(
    steps: int, clients: int, repeats: int, batch: int = 8
) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """plain, round -> wall and processor seconds of a million tokens, the least of each; and the documents.

    Args:
        steps, clients, repeats: See above.
        batch: Blocks of a step.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        argv = ["--config", "recipes/quickstart.yaml", "--corpus.max_documents", "256", "--trainer.use_cpu", "true"]
        argv += ["--trainer.per_device_train_batch_size", str(batch)]
        recipe = parse_recipe([*argv, "--output_dir", folder, "--trainer.disable_tqdm", "true"])
        teacher, tokenizer = load_teacher(recipe.teacher)
        corpus = open_corpus(recipe.corpus, 0, place, teacher, tokenizer)
        swapper = Swapper(load_wordlist(recipe.wordlist))
        whole, _ = training_blocks(recipe, corpus, tokenizer, swapper, place)
        federated = replace(
            recipe,
            trainer={**recipe.trainer, "max_steps": -1},
            federation=FederationConfig(clients=clients, rounds=repeats, local_steps=steps, watch=[]),
        )
        shared, _ = client_blocks(federated, corpus, tokenizer, swapper, place)
        roles = token_roles(swapper.wordlist, tokenizer, vocab_size(tokenizer))
        set_seed(0)
        student = make_student(recipe.student, teacher, tokenizer, "demo")
        maps = build_role_maps(roles.edges, roles.vocab_size)
        models = prepare(recipe, student, teacher, tokenizer, maps, place)
        plain = replace(recipe, trainer={**recipe.trainer, "max_steps": steps * clients, "save_strategy": "no"})
        state = State(get_weights(student))
        seconds: dict[str, list[tuple[float, float]]] = {"plain": [], "round": []}
        with many_updates():
            for number in range(repeats):
                begun = time.perf_counter(), time.process_time()
                tokens = state.totals["student_tokens"]
                trainer = fit(plain, models, whole, place / f"plain-{number}", place, [])
                between = time.perf_counter(), time.process_time()
                state = _round(federated, models, shared, state, place / "federated", place, [])
                state.save(place / "federated")
                ended = time.perf_counter(), time.process_time()
                read = trainer.training_log.totals.student_tokens, state.totals["student_tokens"] - tokens
                for name, first, last, millions in (
                    ("plain", begun, between, read[0]),
                    ("round", between, ended, read[1]),
                ):
                    seconds[name].append(tuple(1e6 / millions * (b - a) for a, b in zip(first, last, strict=True)))
        least = {name: (min(run[0] for run in runs), min(run[1] for run in runs)) for name, runs in seconds.items()}
        return least, list(corpus.documents())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
