"""How disparity spreads over clients: students of a federated study on each client's own text, for FEDERATED.md.

python tests/benchmarks/federated_clients.py study/federated outputs/study-federated --data DIR --seeds 0 1 2

Each student that was trained with clients is measured on the documents that its own clients held; those that were
trained in one place, and the teacher, on those of every other row's clients. So a spread can be set beside that of a
model to which clients mean nothing, on the same documents. At most 1,024 documents are read a deal, as many of each
client. What came out is written to FOLDER/clients.json, row by row, and what is there is not measured again.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distill.base.console import say
from distill.base.files import write_json
from distill.data.corpus import open_corpus
from distill.federation.client_scores import DOCUMENTS, over_clients, sample, scorer
from distill.federation.partitions import partition
from distill.models.loading import load_model, load_teacher, load_tokenizer
from distill.recipe import Recipe
from distill.study.file import read_study, row_recipe, run_folder
from distill.study.schema import Study
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist

METRICS = ("corpus_disparity", "perplexity")
READ = 1024  # documents of all clients together
TEACHER = "teacher"


def dealt(study: Study, seed: int, rows: Sequence[str]) -> dict[str, tuple[Recipe, list[str]]]:
    """`CLIENTS, alpha ALPHA` -> a recipe that deals so, and the rows that trained on it or in one place."""
    recipes = {row: row_recipe(study, row, seed) for row in rows}
    deals: dict[str, tuple[Recipe, list[str]]] = {}
    for row, recipe in recipes.items():
        if recipe.federation.clients:
            key = f"{recipe.federation.clients}, alpha {recipe.federation.partition.alpha:g}"
            deals.setdefault(key, (recipe, []))[1].append(row)
    in_one_place = [row for row, recipe in recipes.items() if not recipe.federation.clients]
    return {key: (recipe, [TEACHER, *in_one_place, *those]) for key, (recipe, those) in deals.items()}


def clients_text(recipe: Recipe, swapper: Swapper, folder: Path) -> list[tuple[str, ...]]:
    """Documents of each client, spread evenly over what it holds."""
    config = recipe.federation
    documents = list(open_corpus(recipe.corpus, 2 * recipe.seed, folder, None, None).documents())
    shares = partition(documents, config.partition, config.clients, recipe.seed, swapper)
    return [sample([documents[i] for i in share], min(DOCUMENTS, READ // config.clients)) for share in shares]


def measured(study: Study, seed: int, rows: Sequence[str], known: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each deal and model that is not known yet: its scores on each client, and over them."""
    there = {(entry["deal"], entry["row"], entry["seed"]) for entry in known}
    for deal, (recipe, models) in dealt(study, seed, rows).items():
        texts: list[tuple[str, ...]] = []
        swapper = Swapper(load_wordlist(recipe.wordlist))
        for row in models:
            student = run_folder(study, row, seed) / "student"
            if (deal, row, seed) in there or not (row == TEACHER or (student / "config.json").exists()):
                continue
            texts = texts or clients_text(recipe, swapper, Path(study.output_dir, "cache"))
            model, tokenizer = (
                load_teacher(recipe.teacher)
                if row == TEACHER
                else (load_model(str(student)), load_tokenizer(str(student)))
            )
            values = scorer(recipe, tokenizer, swapper, METRICS, "METRICS")
            found = [
                {"client": client, "documents": len(text), **values(model, text)}
                for client, text in enumerate(texts)
                if text
            ]
            say(f"{deal}: {row}, seed {seed}")
            yield {"deal": deal, "row": row, "seed": seed, "clients": found, "over": over_clients(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="its file, or the name of a bundled one")
    parser.add_argument("folder", type=Path, help="its output")
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="+", help="default: all")
    options = parser.parse_args()
    study = read_study(options.study, data=options.data, output_dir=str(options.folder))
    path = options.folder / "clients.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for seed in options.seeds:
        for entry in measured(study, seed, options.rows or list(study.students), tuple(known)):
            known.append(entry)
            write_json(path, known)


if __name__ == "__main__":
    main()
