"""How many tokens a teacher need not see: passes that pairs share, unedited text, prefixes that views have in common.

A text and its counterfactual are the same up to the first edit, and so are the teacher's hidden states there. Reusing
them would spare the teacher those tokens in the second view. This counts what there is to win, on real text and without
any model:

    python tests/benchmarks/prefix.py gutenberg_fiction.train.jsonl.xz --passage-chars 480
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator

import numpy as np
from common import print_table

from distill.data.blocks import PairBlock
from distill.data.counts import PackingCounts
from distill.data.packing import pack
from distill.models.loading import load_tokenizer
from distill.objective.chunks import IGNORED
from distill.recipe import CorpusConfig
from distill.text.counterfactual import Swapper
from distill.text.documents import read_documents
from distill.text.wordlist import load_wordlist


def pieces(block: PairBlock) -> Iterator[list[np.ndarray]]:
    """The token ids of each piece of a block, per view, without padding. Positions restart at 0 with each piece."""
    views = []
    for ids, labels, positions in zip(block.input_ids, block.labels, block.position_ids, strict=True):
        length = int((labels != IGNORED).sum())  # padding comes last
        starts = np.flatnonzero(positions[:length] == 0)
        views.append(np.split(ids[:length], starts[1:]))
    yield from map(list, zip(*views, strict=True))


def common_prefix(one: np.ndarray, other: np.ndarray) -> int:
    """Number of leading tokens that are equal."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length


def count(blocks: Iterator[PairBlock], block_length: int) -> Counter:
    """Teacher tokens of training on texts and counterfactuals with two-view targets, by what is saved."""
    counts = Counter()
    for block in blocks:
        counts["padded"] += len(block.input_ids) * block_length
        for text, *others in pieces(block):
            views = [text, *others]
            counts["pieces"] += 1
            counts["text"] += len(text)
            counts["one_view"] += len(text) if not others else 0
            counts["views"] += sum(map(len, views))
            for other in others:
                prefix = common_prefix(text, other)
                if prefix == len(text) == len(other):
                    counts["equal_pieces"] += 1
                    counts["equal"] += len(other)
                else:
                    counts["edited_pieces"] += 1
                    counts["edited"] += len(other)
                    counts["prefix"] += prefix
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs="+", help=".jsonl files, a document a row; may be compressed")
    parser.add_argument("--tokenizer", default="demo")
    parser.add_argument("--wordlist", default="english_gender")
    parser.add_argument("--block-length", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--passage-chars", type=int, help="split documents as the recipe's corpus.passage_chars does")
    parser.add_argument("--documents", type=int, help="take this many at most")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()

    tokenizer, swapper = load_tokenizer(options.tokenizer), Swapper(load_wordlist(options.wordlist))
    corpus = CorpusConfig(
        source="files", files=options.files, passage_chars=options.passage_chars, max_documents=options.documents
    )
    results = {}
    for length in options.block_length:
        blocks = pack(read_documents(corpus, 0), tokenizer, swapper, length, PackingCounts())
        results[length] = count(blocks, length)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    rows = []
    for length, n in results.items():
        everything = 4 * n["text"]  # each text doubled, each of the two with a teacher pass of its own on both
        steps = {
            "every text doubled, passes not shared": everything,
            "passes of a pair shared": 2 * n["text"],
            "documents without edits in one view (as packed)": n["views"],
            "pieces without edits in one view": n["views"] - n["equal"],
            "prefixes before the first edit reused": n["views"] - n["equal"] - n["prefix"],
        }
        before = everything
        for name, tokens in steps.items():
            rows.append([f"{length}: {name}", f"{tokens:,}", f"{1 - tokens / before:.1%}"])
            before = tokens
        rows.append([f"{length}: share of edited pieces before the first edit", "", f"{n['prefix'] / n['edited']:.1%}"])
    print_table(("block length", "teacher tokens", "saved by this"), rows)


if __name__ == "__main__":
    main()
