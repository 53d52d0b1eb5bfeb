"""What the audit finds where something is there, and where nothing is; what a student takes over from a leaky teacher.

    python tests/benchmarks/audit.py --data DIR --public outputs/quickstart/baseline --output_dir DIR

For each seed the demo teacher is fine-tuned for ten epochs on passages about people, with canaries, by a recipe with
`audit`: the leaky teacher. The control is fine-tuned alike on other people. Students of half of the layers, which start
from a public student, are then distilled from the leaky teacher on the same text, on unrelated fiction, and on its own
samples (`--no_students`: without these). All are asked about the same members, others and canaries. The tables go into
PRIVATE.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from distill import score, train
from distill.data.audit import FOLDER
from distill.recipe import CorpusConfig
from distill.text.documents import read_documents

_METRICS = ("membership_excess_auc", "membership_tpr", "memorised_run", "near_verbatim", "canary_exposure_bits",
            "canaries_extracted", "perplexity")  # fmt: skip


def passages(path: Path, characters: int, number: int) -> list[str]:
    """The first passages, of at most so many characters, of a file of documents."""
    config = CorpusConfig(source="files", files=[str(path)], passage_chars=characters, max_documents=number)
    return list(read_documents(config, seed=0))


def write(texts: list[str], path: Path) -> str:
    """Texts as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def run_seed(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The models of one seed, trained and asked."""
    folder, members = options.output_dir / str(seed), options.members
    corpus, rest = options.data / "corpus", members // 4
    people = passages(corpus / "wikipedia_people.train.jsonl.xz", options.passage_chars, 3 * (2 * members + rest))
    ours, theirs = people[: 2 * members + rest], people[2 * members + rest :][: members + rest]
    fiction = passages(corpus / "gutenberg_fiction.validation.jsonl.xz", options.passage_chars, members + rest)
    held_out = {"source": "files", "files": [write(people[-200:], folder / "held-out.jsonl")]}
    trainer = {
        "max_steps": -1, "num_train_epochs": options.epochs, "per_device_train_batch_size": 8,
        "learning_rate": options.learning_rate, "warmup_steps": 20, "save_strategy": "no", "report_to": "none",
    }  # fmt: skip
    common = {
        "seed": seed, "baseline": False, "held_out": held_out, "trainer": trainer,
        "scores": {"metrics": ["perplexity"]},
    }  # fmt: skip

    def tuned(name: str, texts: list[str], **keys: Any) -> Path:
        """The demo teacher, fine-tuned on some texts."""
        train(
            "debug", **common | keys, output_dir=str(folder / name), teacher={"path": None},
            student={"init": "checkpoint", "path": "demo", "tokenizer": "demo"},
            loss={"kd": 0.0, "ce": 1.0, "listed": 0.0},
            corpus={"source": "files", "files": [write(texts, folder / f"{name}.jsonl")], "max_documents": None},
            target={"op": "none", "augment": False, "reverse_roles": False},
        )  # fmt: skip
        return folder / name / "student"

    audit = {"canaries": options.canaries, "repeats": [1, 4, 16], "members": members}
    leaky = tuned("leaky", ours, audit=audit)
    models = {"public": options.public, "control": tuned("control", theirs), "leaky teacher": leaky}
    audited = folder / "leaky" / FOLDER
    left_out = set(read_texts(audited / "others.jsonl"))
    canaries = [json.loads(line) for line in (audited / "canaries.jsonl").read_text(encoding="utf-8").splitlines()]
    same = [text for text in ours if text not in left_out]
    same += [canary["text"] for canary in canaries for _ in range(canary["repeats"])]
    sources: dict[str, dict[str, Any]] = {
        "same text": {"source": "files", "files": [write(same, folder / "same.jsonl")], "max_documents": None},
        "unrelated fiction": {
            "source": "files", "files": [write(fiction, folder / "fiction.jsonl")], "max_documents": None
        },
        "its own samples": {"source": "teacher", "max_documents": members + rest},
    }  # fmt: skip
    for name, source in ({} if options.no_students else sources).items():
        place = folder / name.replace(" ", "-")
        train(
            "debug", **common, output_dir=str(place), teacher={"path": str(leaky)}, corpus=source,
            student={"init": "checkpoint", "path": str(options.public)}, loss={"listed": 0.0},
            target={"op": "none", "augment": False, "reverse_roles": False},
        )  # fmt: skip
        models[f"student, {name}"] = place / "student"
    scores = score(
        {name: str(path) for name, path in models.items()},
        texts=people[-200:], metrics=["perplexity"], members=str(audited / "members.jsonl"),
        others=str(audited / "others.jsonl"), canaries=str(audited / "canaries.jsonl"), reference="demo", seed=seed,
        folder=folder / "scores",
    )  # fmt: skip
    return scores["models"]


def read_texts(path: Path) -> list[str]:
    """The texts of a file of JSON lines."""
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def table(found: list[dict[str, Any]]) -> str:
    """Means over seeds, least and largest behind them; below it exposure by how often a canary stands in the text."""
    lines = ["| model | " + " | ".join(_METRICS) + " |", "|" + "---|" * (len(_METRICS) + 1)]
    for model in found[0]:
        cells = []
        for metric in _METRICS:
            values = [of_seed[model][metric]["value"] for of_seed in found]
            cells.append(f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    often = list(found[0]["control"]["canary_exposure_bits"]["details"]["repeats"])
    lines += ["", "| bits (share extracted) | " + " | ".join(f"{n} times" for n in often) + " |"]
    lines.append("|" + "---|" * (len(often) + 1))
    for model in found[0]:
        cells = []
        for n in often:
            of_seeds = [of_seed[model]["canary_exposure_bits"]["details"]["repeats"][n] for of_seed in found]
            bits, extracted = (sum(of[key] for of in of_seeds) / len(of_seeds) for key in ("bits", "extracted"))
            cells.append(f"{bits:.1f} ({extracted:.0%})")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """All seeds, and the tables on standard output."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds corpus/")
    parser.add_argument("--public", type=Path, required=True, help="a student of half of the demo teacher's layers")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/audit"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--members", type=int, default=2000)
    parser.add_argument("--passage_chars", type=int, default=150, help="characters of a text, at most")
    parser.add_argument("--canaries", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning_rate", type=float, default=2.0e-3)
    parser.add_argument("--no_students", action="store_true", help="the leaky teacher and the control alone")
    options = parser.parse_args()
    found = [run_seed(seed, options) for seed in options.seeds]
    print(table(found))


if __name__ == "__main__":
    main()
