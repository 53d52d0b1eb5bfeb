"""What the names in a recipe held when a run's students were trained: a file or a model may change and keep its name.

`inputs.json` in the run's folder is written as the first training begins:

    versions    of what decides a hash beside the user: transformers, peft, the bundled word lists
    commits     of the hub data sets of corpus and held-out text, by which they are opened from then on
    held        a recipe's key -> a hash of what it names: text, word list, weights
    blocks      what tells the training blocks from others
    processes   how many were started, which share out each step

Students that are finished were trained on what is held, whatever a later version makes of it; one that is still to be
trained must have the very blocks of those before, and as many processes. Held-out text decides scores alone, which are
all made anew with it.

Of several processes the first writes the record, and the others compare what they read with it from the start: they
may be on another machine, where a path or a name on the hub stands for something else.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from distill.base.console import is_first_process, this_process
from distill.base.errors import UserError
from distill.base.files import write_json
from distill.base.integrity import file_hash
from distill.data.corpus import Corpus
from distill.models.adapters import adapter_hash, has_adapter, trainable_state
from distill.models.architecture import weights_hash
from distill.models.quantization import is_quantized
from distill.recipe import Recipe
from distill.run_folder import RECORD
from distill.scoring.score_cache import installed_version
from distill.text.wordlist import WordList, bundled_wordlists

# Whose hashes other versions may change, and of what.
_OF_WEIGHTS = ["transformers", "peft"]
_OF_VERSIONS = {"wordlist": ["wordlists"], "teacher.path": _OF_WEIGHTS, "student.path": _OF_WEIGHTS}


class RunInputs:
    """What a run's names hold now, beside what they held as its first training began.

    commits: Of the hub data sets of corpus and held-out text; None where there is none, or none is known yet.

    Args:
        recipe: The run's.
        folder: The run's. One whose record was removed goes on without being looked at.
        missing: Names of the students that are still to be trained.

    Raises:
        UserError: the record cannot be read; or students are still to be trained, and others of this run were trained
            by another number of processes.
    """

    def __init__(self, recipe: Recipe, folder: Path, missing: Collection[str] = ()) -> None:
        self._recipe, self._folder = recipe, folder
        self._begun = any(_is_begun(folder, name) for name in recipe.variants())
        self._compares = self._begun or not is_first_process()
        self._before = _read(folder / RECORD)
        self._held: dict[str, str | None] = {}
        self._versions = _versions()
        self._require_processes(missing)
        self.commits: Sequence[str | None] = self._before.get("commits", [None, None])

    def _require_processes(self, missing: Collection[str]) -> None:
        """Students that are to be compared share out their steps alike; private steps are the same for any number."""
        students = self._recipe.variants()
        before, now = self._before.get("processes"), _processes()
        if self._recipe.is_private or not 0 < len(missing) < len(students) or before in (None, now):
            return
        raise UserError(
            f"{self._folder}: {', '.join(students.keys() - set(missing))} was trained by {before} "
            f"process{'es' if before > 1 else ''}, but {now} {'were' if now > 1 else 'was'} started, whose steps for "
            f"{', '.join(missing)} would read another number of blocks; start {before}, or choose another --output_dir"
        )

    def look_at_models(
        self, wordlist: WordList, teacher: PreTrainedModel | None, student: PreTrainedModel | None
    ) -> str | None:
        """Look at the word list, where it decides what is learned, and at the weights that training begins with.

        Args:
            wordlist: The recipe's.
            teacher: Looked at unless it is in fewer bits, which are others on another device.
            student: Untrained, where it is there already.

        Returns:
            `weights_hash` of the teacher.

        Raises:
            UserError: one of them has changed since a student of this run was trained, or is another than the first
                process reads.
        """
        held: dict[str, str | None] = {}
        if self._recipe.needs_counterfactuals or self._recipe.loss.listed:
            held["wordlist"] = wordlist.sha256
        weights = weights_hash(teacher) if teacher is not None else None
        if teacher is not None and not is_quantized(teacher):
            held["teacher.path"] = adapter_hash(teacher) or weights
        if student is not None and self._recipe.student.path:
            new = trainable_state(student) if has_adapter(student) else {}
            held["student.path"] = adapter_hash(student) or weights_hash(student, left_out=new)
        self._require(held)
        return weights

    def look_at_text(self, *texts: Corpus) -> None:
        """Look at the corpus; take note of its commit and that of the held-out text, `texts` in this order.

        Raises:
            UserError: the corpus has changed since a student of this run was trained, or is another than the first
                process reads.
        """
        pairs = zip(texts, self._recipe.texts, strict=True)
        self.commits = [text.content if config.source == "hub" else None for text, config in pairs]
        self._require({"corpus": texts[0].content})

    def look_at_blocks(self, blocks: Any, students_left: bool) -> None:
        """Look at the training blocks; where no student was trained yet, write the record.

        Args:
            blocks: What is trained on; `identities` tells it from others, each of its items by itself.
            students_left: Whether a student is still to be trained.

        Raises:
            UserError: there are such students, and others of this run were trained on other blocks, or the first
                process trains them on others.
        """
        if not self._compares:
            record = {"versions": self._versions, "commits": self.commits, "held": self._held}
            write_json(self._folder / RECORD, {**record, "blocks": list(blocks.identities), "processes": _processes()})
        elif students_left and self._before and not set(self._before["blocks"]) & set(blocks.identities):
            if not self._begun:
                raise _unlike_the_first("the text gives other blocks")
            raise UserError(
                f"{self._folder}: the text gives other blocks now than those that this run was trained on (a "
                "tokenizer, a chat template or the rules of swapping have changed since); go on with the versions "
                "that it was begun with, or choose another --output_dir"
            )

    def _require(self, held: Mapping[str, str | None]) -> None:
        self._held |= held
        if not (self._compares and self._before):
            return
        for key, value in held.items():
            before = self._before["held"].get(key)
            of = _OF_VERSIONS.get(key, [])
            same = all(self._before["versions"].get(name) == self._versions[name] for name in of)
            if None not in (before, value) and before != value and same:
                if not self._begun:
                    raise _unlike_the_first(f"what {key} names ({self._name(key)}) is another")
                raise UserError(
                    f"{self._folder}: what {key} names ({self._name(key)}) has changed since this run was trained; "
                    "restore it, or choose another --output_dir"
                )

    def _name(self, key: str) -> str:
        if key == "corpus":
            return ", ".join(self._recipe.corpus.files) or str(self._recipe.corpus.dataset)
        section, _, name = key.partition(".")
        value = getattr(self._recipe, section)
        return str(getattr(value, name) if name else value)


def _unlike_the_first(what: str) -> UserError:
    return UserError(
        f"{this_process()}: {what} than in the first process; text, models, versions and word lists must be the same "
        "on all machines"
    )


def _processes() -> int:
    """How many the launcher has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _is_begun(folder: Path, name: str) -> bool:
    """Whether a student of this name was trained, or has trained up to a checkpoint, which may be a client's."""
    return (folder / name).exists() or any((folder / "checkpoints" / name).rglob("checkpoint-*"))


def _versions() -> dict[str, str | None]:
    """What a run's hashes follow from beside the user's own files."""
    lists = "".join(file_hash(path) for path in bundled_wordlists().values())
    packages: dict[str, str | None] = {name: installed_version(name) for name in ("transformers", "peft")}
    return packages | {"wordlists": hashlib.sha256(lists.encode()).hexdigest()}


def _read(path: Path) -> dict[str, Any]:
    """The record; empty where there is none."""
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {name: record[name] for name in ("versions", "commits", "held", "blocks", "processes")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}); restore it, or remove it to go on without a look at "
            "what has changed since this run was trained"
        ) from None
