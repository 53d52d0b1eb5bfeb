"""CrowS-Pairs pair by pair: our decisions beside those of lm-evaluation-harness, on the same model and the same rows.

    python tests/benchmarks/crows_pairs_lm_eval.py --model demo --data ../shared/data

The harness loads the model itself (its `hf` model) and gets a task of ours, a definition and the pairs in a temporary
folder: nothing is downloaded. Every pair that the two decide differently is shown with what explains it: another start
token, other tokens, a sentence cut to the context, or log-likelihoods that agree up to rounding where the two sentences
are as good as tied. The exit code is 1 if a decision or a log-likelihood differs without an explanation.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from distill.metrics import METRICS, Evaluation
from distill.models.loading import load_model, load_tokenizer
from distill.recipe import ScoreConfig
from distill.text.wordlist import load_wordlist

TASK = "distill_rows"
# Two programs in single precision, with other batches, differ by this much in a sum over a sentence (nats).
TOLERANCE = 2e-3

crows_pairs = METRICS["crows_pairs"]


def compare(model: str, path: Path, bias_type: str = "gender", batch_size: int = 32) -> dict[str, Any]:
    """Score the pairs of a type twice and set the results side by side.

    Args:
        model: Folder or hub id of the model, or `demo`.
        path: crows_pairs_anonymized.csv.
        bias_type: As in the file, or `all`.
        batch_size: Sentences scored side by side, in both programs.

    Returns:
        `pairs`; `agree`, in how many the decisions are the same; `ours` and `theirs`, the percentages; the largest
        difference of a sentence's log-likelihood and the smallest gap between the two of a pair, in nats; and
        `differences`, a row for each pair that is decided differently or whose log-likelihoods differ by more than
        `TOLERANCE`, `reason` being None if nothing explains it.
    """
    pairs = [pair for pair in crows_pairs.read_pairs(path) if bias_type in ("all", pair.bias_type)]
    sentences = [sentence for pair in pairs for sentence in (pair.sent_more, pair.sent_less)]
    tokenizer = load_tokenizer(model)
    evaluation = Evaluation(
        load_model(model), tokenizer, load_wordlist("english_gender"), settings=ScoreConfig(batch_size=batch_size)
    )
    ours = crows_pairs.log_likelihoods(evaluation, pairs)[0]
    lm = harness_model(tokenizer.name_or_path, batch_size)
    theirs = harness_log_likelihoods(lm, pairs)
    rows = []
    for number, (pair, our, their) in enumerate(zip(pairs, ours, theirs, strict=True)):
        same = (our[0] > our[1]) == (their[0] > their[1])
        if not same or max(abs(our - their)) > TOLERANCE:
            reason = _reason(evaluation, lm, sentences[2 * number : 2 * number + 2], our, their)
            rows.append(
                {"pair": number, "same_decision": bool(same), "reason": reason, "ours": our.tolist()}
                | {"theirs": their.tolist(), "sent_more": pair.sent_more, "sent_less": pair.sent_less}
            )
    return {
        "pairs": len(pairs),
        "agree": int(((ours[:, 0] > ours[:, 1]) == (theirs[:, 0] > theirs[:, 1])).sum()),
        "ours": 100 * float((ours[:, 0] > ours[:, 1]).mean()),
        "theirs": 100 * float((theirs[:, 0] > theirs[:, 1]).mean()),
        "largest_difference": float(abs(ours - theirs).max()),
        "smallest_gap": float(abs(ours[:, 0] - ours[:, 1]).min()),
        "differences": rows,
    }


def harness_log_likelihoods(lm: Any, pairs: Sequence[Any]) -> Any:
    """(N, 2) log-likelihoods of sent_more and sent_less as the harness reports them for a task of ours, in nats."""
    rows = [{"sent_more": pair.sent_more, "sent_less": pair.sent_less} for pair in pairs]
    task = {"doc_to_text": "", "doc_to_choice": "{{[sent_more, sent_less]}}", "target_delimiter": ""}
    found, accuracy = ask_harness(lm, rows, task)
    assert abs((found[:, 0] > found[:, 1]).mean() - accuracy) < 1e-11
    return found


def ask_harness(lm: Any, rows: Sequence[dict[str, Any]], task: dict[str, Any], chat: bool = False) -> tuple[Any, float]:
    """What the harness says of rows, by a task of multiple choice that is defined here: nothing is downloaded.

    Args:
        lm: The harness's model.
        rows: N rows of K answers each; the first counts as right.
        task: What the definition says of text and answers.
        chat: Through the model's chat template.

    Returns:
        (N, K) log-likelihoods of the answers in nats, and the harness's accuracy.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "rows.json")
        data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        whole = {
            "task": TASK,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(Path(folder, "cache"))},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_target": 0,
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            **task,
        }
        Path(folder, f"{TASK}.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
        results = simple_evaluate(
            lm,
            tasks=[TASK],
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=chat,
        )
    samples = sorted(results["samples"][TASK], key=lambda sample: sample["doc_id"])
    for sample, row in zip(samples, rows, strict=True):
        assert sample["doc"] == row, "the harness scored other rows"
    found = np.array([[likelihood for likelihood, _ in sample["filtered_resps"]] for sample in samples])
    return found, results["results"][TASK]["acc,none"]


def harness_model(model: str, batch_size: int) -> Any:
    """A folder's or hub id's model as the harness loads it."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=batch_size)


def _reason(evaluation: Evaluation, lm: Any, sentences: Sequence[str], ours: Any, theirs: Any) -> str | None:
    """Why the two programs part on a pair."""
    if lm.prefix_token_id != evaluation.start:
        return f"start token {evaluation.start} here, {lm.prefix_token_id} there"
    for sentence in sentences:
        ids = evaluation.encode(sentence)[0]
        their_ids = lm.tok_encode(sentence, add_special_tokens=False)
        if ids[1:] != their_ids:
            return f"tokens {ids[1:]} here, {their_ids} there"
        if len(ids) > min(evaluation.context or len(ids), lm.max_length + 1):
            return f"{len(ids)} tokens are more than the context"
    if max(abs(ours - theirs)) <= TOLERANCE:
        return f"as good as tied: the log-likelihoods agree within {TOLERANCE} nats, rounding decides"
    return None


def main(argv: Sequence[str]) -> int:
    """Compare and print; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="folder or hub id, or demo")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds crows_pairs/")
    parser.add_argument("--bias_type", default="gender", help="a type of bias of the file, or all")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    if find_spec("lm_eval") is None:
        parser.error("lm_eval is not installed; pip install -c constraints.txt -e '.[bench]'")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    path = options.data / "crows_pairs" / "crows_pairs_anonymized.csv"
    outcome = compare(options.model, path, options.bias_type, options.batch_size)
    if options.json:
        print(json.dumps(outcome, indent=1))
    else:
        print(
            f"{outcome['agree']} of {outcome['pairs']} pairs are decided alike ({outcome['ours']:.2f}% here, "
            f"{outcome['theirs']:.2f}% there); a sentence's log-likelihood differs by at most "
            f"{outcome['largest_difference']:.2g} nats"
        )
        for row in outcome["differences"]:
            print(f"pair {row['pair']}: {row['ours']} here, {row['theirs']} there: {row['reason'] or 'NOT EXPLAINED'}")
    return int(any(row["reason"] is None for row in outcome["differences"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
