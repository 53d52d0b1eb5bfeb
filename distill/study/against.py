"""Which row of a study each of its rows is set against: `plain`, or the one that its key `against` names."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distill.base.errors import UserError, suggestion
from distill.study.schema import BASELINE, Study

_KEY = "against"


def own_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a row that say what its model is: all but `against`, so that it may change after a training."""
    return {key: value for key, value in keys.items() if key != _KEY}


def against(study: Study, row: str) -> str | None:
    """The row that a row is set against; None for `plain`, and where its key says `null`."""
    if row == BASELINE:
        return None
    name: str | None = _rows(study)[row].get(_KEY, BASELINE)
    return name


def comparable(row: str, of_row: str | None, other: str, of_other: str | None) -> bool:
    """Whether two rows are set against the same row, or one of them against the other.

    Args:
        row, other: Their names.
        of_row, of_other: What they are set against.
    """
    return of_row in (of_other, other) or of_other == row


def check_against(study: Study) -> None:
    """Raises UserError for a key `against` that names no other row, or leads back to the row that it is of."""
    rows = _rows(study)
    for row, keys in rows.items():
        if (other := keys.get(_KEY)) is None:
            continue
        if not isinstance(other, str):
            raise UserError(f"row '{row}': against must name a row, or be null for none, not {other!r}")
        if row == BASELINE:
            raise UserError(f"row '{row}': against is {other}, but all others are set against this row; leave it out")
        if other not in rows:
            raise UserError(f"row '{row}': against is {other}, which is no row; {suggestion(other, list(rows))}")
        if other == row:
            raise UserError(f"row '{row}': against names the row itself; name another one, or null for none")
    for row in rows:
        _check_no_circle(study, row)


def _check_no_circle(study: Study, row: str) -> None:
    """Each may be set against one that is set against a third, but the last one stands by itself."""
    passed = [row]
    while (other := against(study, passed[-1])) is not None:
        if other in passed:
            circle = " against ".join([*passed[passed.index(other) :], other])
            raise UserError(f"row '{other}': against leads in a circle ({circle}); set one of them against null")
        passed.append(other)


def without_left_out(study: Study) -> Study:
    """A study of which some rows were taken, without the teachers that are set against one that was not.

    Raises:
        UserError: a student is; it was asked for by name.
    """
    rows = _rows(study)
    alone = {row: other for row in rows if (other := against(study, row)) not in (None, BASELINE, *rows)}
    for row, other in alone.items():
        if row in study.students:
            raise UserError(f"row '{row}': against is {other}, which --rows leaves out; name it there too")
    if not alone:
        return study
    teachers = {name: keys for name, keys in study.teachers.items() if name not in alone}
    return without_left_out(replace(study, teachers=teachers))  # others may be set against those


def _rows(study: Study) -> dict[str, dict[str, Any]]:
    return {**study.teachers, **study.students}
