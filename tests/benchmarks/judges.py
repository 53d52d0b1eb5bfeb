"""Makes what some scores judge texts by, where there is no network: for the tables of SCORES.md, and nothing else.

    python tests/benchmarks/judges.py --data path/to/data OUT

OUT/toxicity becomes a classifier of toxic text, the demo teacher fine-tuned on a part of HateXplain; OUT/vectors.txt
word vectors of the corpora (GloVe's format): positive pointwise mutual information of words that stand near each other,
cut to a few dimensions (Levy and Goldberg 2014). Both are weak, and the first says how weak.
"""

import argparse
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np

from distill.metrics.downstream import read_hatexplain
from distill.metrics.regard.train_regard import in_words, measure, train
from distill.metrics.text_classifier import load_classifier
from distill.recipe import CorpusConfig
from distill.text.documents import read_documents

ROWS = 2_000  # of HateXplain's training set
WORDS, WINDOW, DIMENSIONS = 10_000, 5, 50
CORPORA = ("gutenberg_fiction.validation.jsonl.xz", "wikipedia_people.validation.jsonl.xz")


def toxicity(data: Path, out: Path) -> None:
    """Train a classifier of `toxic` (offensive or hateful) and `normal`, and print its accuracy on the test set."""
    labels = ("normal", "toxic")
    rows = {
        part: [(labels[toxic], text) for text, toxic in read_hatexplain(data / "hatexplain" / f"{part}.json")]
        for part in ("train", "test")
    }
    train(random.Random(0).sample(rows["train"], ROWS), labels, "demo", out, seed=0)
    print(f"toxicity: {in_words(measure(load_classifier(str(out)), rows['test']))}")


def vectors(data: Path, out: Path) -> None:
    """Word vectors of the held-out corpora."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import svds

    files = [str(data / "corpus" / name) for name in CORPORA]
    texts = [re.findall(r"\w+", text.lower()) for text in read_documents(CorpusConfig(source="files", files=files), 0)]
    counts = Counter(word for text in texts for word in text)
    words = [word for word, _ in counts.most_common(WORDS)]
    place = {word: n for n, word in enumerate(words)}
    known = [np.array([place.get(word, -1) for word in text]) for text in texts]
    pairs: Counter[tuple[int, int]] = Counter()
    for text in known:
        for apart in range(1, WINDOW + 1):
            left, right = text[:-apart], text[apart:]
            both = (left >= 0) & (right >= 0)
            pairs.update(zip(left[both].tolist(), right[both].tolist(), strict=True))
    (rows, columns), n = np.array(list(pairs)).T, np.array(list(pairs.values()), dtype=float)
    table = coo_matrix((n, (rows, columns)), shape=(len(words), len(words))).tocsr()
    table = (table + table.T).tocoo()
    totals = np.asarray(table.sum(axis=0)).ravel()
    information = np.log(table.data * totals.sum() / (totals[table.row] * totals[table.col]))
    positive = coo_matrix((np.maximum(information, 0), (table.row, table.col)), shape=table.shape)
    left, size, _ = svds(positive.tocsr(), k=DIMENSIONS, random_state=0)
    found = left * np.sqrt(size)
    lines = [f"{word} " + " ".join(f"{x:.5f}" for x in row) for word, row in zip(words, found, strict=True)]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"vectors: {len(words)} words, {sum(counts.values())} tokens read")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    vectors(options.data, options.out / "vectors.txt")
    toxicity(options.data, options.out / "toxicity")


if __name__ == "__main__":
    main()
