"""Every metric on one model, with the time that each took: the tables of SCORES.md.

    python tests/benchmarks/scores.py demo --data path/to/data --texts held-out.jsonl --out demo.json
    python tests/benchmarks/scores.py --table demo.json smollm2.json

Metrics run one after another on the same `Evaluation`, so that what several share (continuations, features) counts for
the first that asks for it. What is in the output file already is not measured again: a stopped run continues.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import common
import torch

from distill.base.console import counter
from distill.base.files import write_json
from distill.metrics import CARDS, METRICS, Evaluation, card_dicts, chosen, measured, resampled, score_of
from distill.models.architecture import parameter_count
from distill.models.loading import load_model, load_tokenizer
from distill.recipe import CorpusConfig, ScoreConfig
from distill.reports.findings import by_people, cell
from distill.text.counterfactual import Swapper
from distill.text.documents import read_documents
from distill.text.prompts import limit_prompts, load_prompts, without_listed_words
from distill.text.wordlist import load_wordlist


def measure(options: argparse.Namespace) -> None:
    """Measure what the output file lacks, and write it after each metric."""
    out = Path(options.out)
    record: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"metrics": {}}
    swapper = Swapper(load_wordlist("english_gender"))
    prompts, _ = without_listed_words(load_prompts(options.prompts), swapper)
    prompts = limit_prompts(prompts, options.max_prompts, options.seed)
    texts = CorpusConfig(source="files", files=options.texts, max_documents=options.max_documents)
    settings = ScoreConfig(
        data=options.data,
        regard_model=options.regard_model,
        toxicity_model=options.toxicity_model,
        word_vectors=options.word_vectors,
    )
    model, tokenizer = load_model(options.model), load_tokenizer(options.model)
    documents = list(read_documents(texts, options.seed)) if options.texts else []
    evaluation = Evaluation(model, tokenizer, swapper.wordlist, documents, prompts, settings, options.seed, swapper)
    if options.judge:
        evaluation.judge = lambda: (load_model(options.judge), load_tokenizer(options.judge))
    record["setting"] = {
        "model": Path(options.model).name,
        "parameters": parameter_count(model),
        "prompts": len(prompts),
        "documents": len(documents),
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        **common.machine(),
    }
    for name, module in chosen(options.metrics or list(METRICS)).items():
        if name in record["metrics"]:
            continue
        say = counter(name, "done")
        evaluation.progress = lambda what, done, total, say=say: say(done, total)
        wall, processor = time.monotonic(), time.process_time()
        outcomes = {of: resampled(m, resamples=settings.bootstrap, seed=options.seed) for of, m in
                    measured(module, evaluation).items()}  # fmt: skip
        record["metrics"][name] = {
            "wall_seconds": time.monotonic() - wall,
            "processor_seconds": time.process_time() - processor,
            "scores": {of: score_of(CARDS[of], outcome).to_dict() for of, outcome in outcomes.items()},
        }
        write_json(out, record)


def table(paths: list[str]) -> None:
    """A Markdown table: one row a score, for each model its value, n, and the processor seconds of its metric."""
    records = [json.loads(Path(path).read_text(encoding="utf-8")) for path in paths]
    names = [f"{r['setting']['model']} ({r['setting']['parameters'] / 1e6:.1f}M)" for r in records]
    header = ["score", *(part for name in names for part in (name, "n", "CPU s")), "ideal"]
    print("| " + " | ".join(header) + " |")
    print("|---" * len(header) + "|")
    for metric in dict.fromkeys(metric for record in records for metric in record["metrics"]):
        scores = dict.fromkeys(s for r in records for s in r["metrics"].get(metric, {"scores": {}})["scores"])
        for number, score in enumerate(scores):
            row = [CARDS[score].label]
            for record in records:
                of_metric = record["metrics"].get(metric)
                entry = of_metric and of_metric["scores"].get(score)
                seconds = f"{of_metric['processor_seconds']:.0f}" if of_metric and number == 0 else ""
                reason = entry and entry["value"] is None and entry["details"].get("reason")
                row += [
                    f"not measured: {reason}" if reason else cell(entry),
                    str(entry["n"]) if entry else "–",
                    seconds,
                ]
            ideal = CARDS[score].ideal
            print("| " + " | ".join([*row, "–" if ideal is None else f"{ideal:g}"]) + " |")
            models = {n: r["metrics"][metric]["scores"] for n, r in enumerate(records) if metric in r["metrics"]}
            for name, value in by_people({"models": models, "cards": card_dicts([score])}, score):
                print("| " + " | ".join([name, *[value, "", ""] * len(records), "–"]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", nargs="?", help="folder, hub id or demo")
    parser.add_argument("--out", help="JSON file of this model")
    parser.add_argument("--table", nargs="+", metavar="JSON", help="print these files as a table, and measure nothing")
    parser.add_argument("--metrics", nargs="+", help="default: all")
    parser.add_argument("--data", help="folder of benchmark data")
    parser.add_argument("--texts", nargs="+", default=[], help="held-out text")
    parser.add_argument("--max_documents", type=int)
    parser.add_argument("--prompts", default="occupations")
    parser.add_argument("--max_prompts", type=int)
    parser.add_argument("--regard_model")
    parser.add_argument("--toxicity_model")
    parser.add_argument("--word_vectors")
    parser.add_argument("--judge", help="the model that continuations are given perplexity by")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.table:
        table(options.table)
        return
    if not (options.model and options.out):
        parser.error("a model and --out are needed, or --table")
    torch.set_num_threads(options.threads)
    measure(options)


if __name__ == "__main__":
    sys.exit(main())
