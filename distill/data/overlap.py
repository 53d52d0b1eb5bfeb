"""Training text and held-out text -> how many training documents are held-out documents too, word for word.

Whoever packs a corpus before training reads it once more for this, which takes a hundredth of packing, and keeps the
number; while training, the readers of a stream count what they pack. Only digests of the held-out text are held.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from distill.base.console import counter, say, warn
from distill.base.files import write_json
from distill.data.corpus import Corpus
from distill.data.counts import PackingCounts
from distill.recipe import Recipe
from distill.text.conversations import Conversation

_DIGEST_BYTES = 12


def digest(document: str) -> bytes:
    """What tells a document from others, white space around it left out; of a conversation, what is said in it."""
    said = document.messages if isinstance(document, Conversation) else document
    return hashlib.blake2b(said.strip().encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()


def digests(documents: Iterable[str]) -> frozenset[bytes]:
    """The digests of held-out text."""
    return frozenset(map(digest, documents))


def both_sampled(recipe: Recipe) -> bool:
    """Whether both are samples of one model: short texts that are in both are what it expects in others, too."""
    return recipe.corpus.source == recipe.held_out.source == "teacher"


def held_out_documents(
    recipe: Recipe, corpus: Corpus, held_out: frozenset[bytes], cache_dir: Path, progress: Callable[[int], None]
) -> int:
    """How many documents of a corpus that was packed before training are held-out text; 0 where nobody looked.

    Args:
        recipe: Says where the two come from.
        corpus: The training text.
        held_out: `digests` of the held-out text.
        cache_dir: Folder that keeps the number.
        progress: Called with the number of documents read.
    """
    if both_sampled(recipe):
        return 0
    if recipe.corpus.source == "hub" and recipe.corpus.streaming:
        say("whether training text is held-out text too is not looked at: that would stream the data set once more")
        return 0
    both = hashlib.sha256(corpus.key.encode() + b"".join(sorted(held_out))).hexdigest()[:32]
    path = cache_dir / f"held-out-{both}.json"
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["documents"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    found = 0
    for number, document in enumerate(corpus.documents(), start=1):
        found += digest(document) in held_out
        if number % 1000 == 0:
            progress(number)
    cache_dir.mkdir(parents=True, exist_ok=True)
    write_json(path, {"documents": found})
    return found


def look_for_held_out(
    recipe: Recipe, corpus: Corpus, held_out: Iterable[str], cache_dir: Path, counts: PackingCounts
) -> None:
    """Put the number of `held_out_documents` among the counts of the packing, and warn of it."""
    progress = counter("comparing training text with held-out text", "documents")
    counts.held_out_documents = held_out_documents(recipe, corpus, digests(held_out), cache_dir, progress)
    warn_of_held_out(counts.held_out_documents, counts.documents)


def warn_of_held_out(found: int, documents: int) -> None:
    """A warning, if any training documents are held-out text."""
    if found:
        warn(
            f"{found:,} of {documents:,} training documents are held-out text too, word for word, so that scores on "
            "held-out text flatter the students; take other text for held_out, such as another split"
        )
