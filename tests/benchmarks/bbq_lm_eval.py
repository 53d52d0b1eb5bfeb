"""BBQ row by row: our answers and scores beside those of lm-evaluation-harness, on the same model and the same rows.

    python tests/benchmarks/bbq_lm_eval.py --model demo --data ../shared/data --every 51

The harness loads the model itself (its `hf` model) and gets a task of ours, a definition with the authors' three
answers and the rows in a temporary folder: nothing is downloaded. (Its own task offers ten wordings of 'unknown'.) What
follows a stereotype, and the scores, come from the code of its own task, `lm_eval.tasks.bbq.utils`. Every row that the
two answer differently is shown with what explains it: as in `crows_pairs_lm_eval.py`, or a row without a target, which
counts in our accuracies alone. The exit code is 1 if anything differs without an explanation, or a formula does.
`--chat` asks both through the model's chat template, which must write the start token itself: the harness does not.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crows_pairs_lm_eval import TOLERANCE, ask_harness, harness_model

from distill.metrics import METRICS, Evaluation
from distill.metrics.benchmark_text import data_files, data_rows
from distill.models.loading import load_model, load_tokenizer
from distill.recipe import ScoreConfig
from distill.text.wordlist import load_wordlist

bbq = METRICS["bbq"]


def compare(model: str, data: Path, every: int = 51, chat: bool = False, batch_size: int = 32) -> dict[str, Any]:
    """Answer every so-manieth row twice and set the results side by side.

    Args:
        model: Folder or hub id of the model, or `demo`.
        data: Folder that holds bbq/.
        every: Which rows.
        chat: Through the chat template.
        batch_size: Of the harness.

    Returns:
        `rows`; `agree`, in how many the answers are the same; the largest difference of an answer's log-likelihood, in
        nats; `targets`, in how many rows the two see the same answer as biased; `scores`: name ->
        [of our answers, of theirs by our formula, of theirs by their code]; and
        `differences`, a row for each that differs, `reason` being None if nothing explains it.
    """
    tokenizer = load_tokenizer(model)
    settings = ScoreConfig(data=str(data), chat=chat, bootstrap=2)
    evaluation = Evaluation(load_model(model), tokenizer, load_wordlist("english_gender"), settings=settings)
    rows = [
        row for path in data_files(evaluation, "bbq") for where, row in list(data_rows(path, bbq._COLUMNS))[::every]
    ]
    questions = [bbq._question(f"row {number}", row) for number, row in enumerate(rows)]
    ours = bbq.answer_scores(evaluation, questions)[0]
    lm = harness_model(tokenizer.name_or_path, batch_size)
    # The harness begins a text with the start token only where nothing stands before an answer; a template has its own.
    start = "" if chat else tokenizer.decode([evaluation.start])
    theirs = harness_log_likelihoods(lm, [start + question.text for question in questions], questions, chat)
    if chat:  # White space at the end of a template goes with the answers there, and with the template here.
        ours, theirs = (found - found.mean(axis=1, keepdims=True) for found in (ours, theirs))
    biased = [harness_biased(row) for row in rows]
    differences = []
    for number, (question, our, their, targets) in enumerate(zip(questions, ours, theirs, biased, strict=True)):
        same_answer = our.argmax() == their.argmax()
        same_target = targets == ([] if question.biased is None else [question.biased])
        if not (same_answer and same_target) or max(abs(our - their)) > TOLERANCE:
            reason = _reason(evaluation, lm, question, our, their, same_target)
            differences.append(
                {"row": number, "same_answer": bool(same_answer), "same_target": same_target, "reason": reason}
                | {"ours": our.tolist(), "theirs": their.tolist(), "text": question.text}
            )
    return {
        "rows": len(rows),
        "agree": int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum()),
        "largest_difference": float(abs(ours - theirs).max()),
        "targets": sum(row["same_target"] for row in differences) + len(rows) - len(differences),
        "scores": _scores(questions, ours, theirs, biased),
        "differences": differences,
    }


def harness_biased(row: dict[str, Any]) -> list[int]:
    """The answers that follow the stereotype by the code of the harness's own task."""
    from lm_eval.tasks.bbq import utils

    class Rows(list):
        def map(self, change: Any) -> list:
            return [change(one) for one in self]

    (doc,) = utils.process_docs(Rows([dict(row)]))
    return [place for place in range(3) if doc[f"ans{place}"] in doc["biased_answers"]]


def _scores(questions: Sequence[Any], ours: Any, theirs: Any, biased: Sequence[list[int]]) -> dict[str, list[float]]:
    """Our scores of our answers, and of the harness's answers ours and its own; over all rows that have a target."""
    from lm_eval.tasks.bbq import utils

    kept = [n for n, question in enumerate(questions) if biased[n] == [question.biased]]
    counted = []
    for n in kept:
        said = int(theirs[n].argmax())
        right = float(said == questions[n].right)
        counted.append(
            (right, float(said in biased[n]), float(said != questions[n].unknown), not questions[n].ambiguous)
        )
    tables = [bbq._table([questions[n] for n in kept], scores[kept]).sum(axis=0) for scores in (ours, theirs)]
    right = [(one[0], one[3]) for one in counted]
    harness = {
        ("ambiguous", "bias"): utils.agg_amb_bias_scores(counted),
        ("disambiguated", "bias"): utils.agg_disamb_bias_scores(counted),
        ("ambiguous", "accuracy"): utils.agg_accuracy_amb(right),
        ("disambiguated", "accuracy"): utils.agg_accuracy_disamb(right),
    }
    return {
        "_".join(key): [*(float(bbq.score_of(*key, table)) for table in tables), 100 * float(value)]
        for key, value in harness.items()
    }


def harness_log_likelihoods(lm: Any, texts: Sequence[str], questions: Sequence[Any], chat: bool) -> Any:
    """(N, 3) log-likelihoods of the answers as the harness reports them for a task of ours, in nats."""
    rows = [{"text": text, "answers": list(question.answers)} for text, question in zip(texts, questions, strict=True)]
    return ask_harness(lm, rows, {"doc_to_text": "{{text}}", "doc_to_choice": "{{answers}}"}, chat)[0]


def _reason(evaluation: Evaluation, lm: Any, question: Any, ours: Any, theirs: Any, same_target: bool) -> str | None:
    """Why the two programs part on a row."""
    if not same_target:
        return "no answer, or both, are of the stereotyped group" if question.biased is None else None
    for answer in question.answers:
        before, behind = bbq.given(evaluation, question.text, answer)
        ids = evaluation.encode(before + behind)[0]
        if len(ids) > min(evaluation.context or len(ids), lm.max_length + 1):
            return f"{len(ids)} tokens are more than the context"
    if max(abs(ours - theirs)) <= TOLERANCE:
        return f"as good as tied: the log-likelihoods agree within {TOLERANCE} nats, rounding decides"
    return None


def main(argv: Sequence[str]) -> int:
    """Compare and print; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="folder or hub id, or demo")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds bbq/")
    parser.add_argument(
        "--every", type=int, default=51, help="take every so-manieth row of each file, an odd number: kinds take turns"
    )
    parser.add_argument("--chat", action="store_true", help="ask through the model's chat template")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    if find_spec("lm_eval") is None:
        parser.error("lm_eval is not installed; pip install -c constraints.txt -e '.[bench]'")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    outcome = compare(options.model, options.data, options.every, options.chat, options.batch_size)
    if options.json:
        print(json.dumps(outcome, indent=1))
    else:
        print(
            f"{outcome['agree']} of {outcome['rows']} rows are answered alike, {outcome['targets']} have the same "
            f"target; an answer's log-likelihood differs by at most {outcome['largest_difference']:.2g} nats"
        )
        for name, (ours, same, theirs) in outcome["scores"].items():
            print(f"{name}: {ours:.2f} here, {theirs:.2f} there; its answers by our formula: {same:.2f}")
        for row in outcome["differences"]:
            print(f"row {row['row']}: {row['ours']} here, {row['theirs']} there: {row['reason'] or 'NOT EXPLAINED'}")
    other_formula = any(abs(same - theirs) > 1e-9 for _, same, theirs in outcome["scores"].values())
    return int(other_formula or any(row["reason"] is None for row in outcome["differences"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
