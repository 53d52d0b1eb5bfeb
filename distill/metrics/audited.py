"""What models are asked about to see what they remember: files of a user, or those that an audited run wrote."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from distill.base.errors import UserError
from distill.base.row_files import COLUMN_HINT
from distill.data.canaries import Canary, read_canaries
from distill.recipe import CorpusConfig, ScoreConfig
from distill.text.conversations import Messages
from distill.text.documents import read_documents


@dataclass(frozen=True)
class Audited:
    """What models are asked about: texts that they were trained on, others of the same kind, and canaries."""

    members: Sequence[str] = ()
    others: Sequence[str] = ()
    canaries: Sequence[Canary] = ()

    @property
    def texts(self) -> list[str]:
        """Members, then others."""
        return [*self.members, *self.others]

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def read_audited(scores: ScoreConfig) -> Audited:
    """What the files of the settings hold.

    Raises:
        UserError: members without others or the other way round; a file that cannot be read or holds nothing; texts
            that stand in both.
    """
    for given, missing in (("members", "others"), ("others", "members")):
        if getattr(scores, given) and not getattr(scores, missing):
            raise UserError(
                f"{given} are given without {missing}: what a model remembers shows in a comparison of texts that it "
                f"was trained on with others of the same kind; add {missing}"
            )
    members, others = (_texts(path) if path else [] for path in (scores.members, scores.others))
    if both := {text.strip() for text in members} & {text.strip() for text in others}:
        raise UserError(
            f"{len(both):,} texts stand in both {scores.members} (members) and {scores.others} (others), such as "
            f"'{min(both)[:40]}': what was trained on cannot be told from what was not; take them out of one of the two"
        )
    return Audited(members, others, read_canaries(scores.canaries) if scores.canaries else ())


def _texts(path: str) -> list[str]:
    try:
        found = list(read_documents(CorpusConfig(source="files", files=[path]), seed=0))
    except UserError as error:
        hint = f"Call that of the texts '{CorpusConfig.text_column}', as no option names another for the audit"
        raise UserError(str(error).replace(COLUMN_HINT, hint)) from None
    if any(isinstance(text, Messages) for text in found):
        raise UserError(f"{path}: holds conversations, but the audit reads texts; give a file of texts")
    return found
