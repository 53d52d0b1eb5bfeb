"""The rows that rows of a study are set against, and what is said where that cannot be."""

import pytest
from study_files import PLAIN, small

from distill.base.errors import UserError
from distill.study.against import against, comparable, own_keys
from distill.study.file import (
    derived_row,
    needed_rows,
    read_study,
    row_recipe,
    teacher_checkpoint,
    teacher_target,
)

TEACHERS = {
    "teacher": {},
    "two": {"op": "max", "against": "teacher"},
    "other": {"path": "elsewhere", "against": "medium"},
    "shipped": {"quantize": "int4", "of": "medium", "against": "other"},
    "alone": {"against": None},
}
STUDENTS = {
    "plain": PLAIN,
    "medium": PLAIN | {"against": None},
    "medium-max": {"target": {"op": "max"}, "against": "medium"},
    "max": {"target": {"op": "max"}},
    "max-50": {"target": {"op": "max", "strength": 0.5}, "against": "max"},
}


@pytest.fixture
def study(tmp_path):
    return read_study(small(tmp_path, teachers=TEACHERS, students=STUDENTS))


def test_a_row_is_set_against_the_one_that_it_names_or_else_against_plain(study):
    assert {row: against(study, row) for row in (*TEACHERS, *STUDENTS)} == {
        "teacher": "plain",
        "two": "teacher",
        "other": "medium",
        "shipped": "other",
        "alone": None,
        "plain": None,
        "medium": None,
        "medium-max": "medium",
        "max": "plain",
        "max-50": "max",
    }


def test_what_a_row_is_set_against_is_nothing_of_its_model(tmp_path, study):
    """So that it may be changed after a training, whose recipe stays what it was."""
    without = {name: own_keys(keys) for name, keys in STUDENTS.items()}
    assert not any("against" in keys for keys in without.values())
    teachers = {name: own_keys(keys) for name, keys in TEACHERS.items()}
    other = read_study(small(tmp_path, teachers=teachers, students=without))
    for row in STUDENTS:
        assert row_recipe(study, row, 0) == row_recipe(other, row, 0)
        assert needed_rows(study, row) == needed_rows(other, row)
    for row in TEACHERS:
        for of_row in (teacher_target, teacher_checkpoint, derived_row):
            assert of_row(study, row) == of_row(other, row)


def test_rows_are_comparable_that_are_set_against_the_same_or_one_against_the_other(study):
    def are(row, other):
        return comparable(row, against(study, row), other, against(study, other))

    assert are("max", "teacher") and are("max-50", "max") and are("max", "plain")
    assert are("medium", "medium-max") and are("other", "medium-max")
    assert not are("max", "medium-max") and not are("plain", "medium-max")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"max": {"against": "plane"}}, "row 'max': against is plane, which is no row; did you mean 'plain'"),
        ({"max": {"against": "max"}}, "row 'max': against names the row itself; name another one, or null for none"),
        ({"max": {"against": 3}}, "row 'max': against must name a row, or be null for none, not 3"),
        ({"max": {"against": ["plain"]}}, "row 'max': against must name a row, or be null for none, not ['plain']"),
        ({"plain": PLAIN | {"against": "max"}, "max": {}},
         "row 'plain': against is max, but all others are set against this row; leave it out"),
        ({"max": {"against": "mean"}, "mean": {"against": "max"}},
         "row 'max': against leads in a circle (max against mean against max); set one of them against null"),
        ({"a": {"against": "b"}, "b": {"against": "c"}, "c": {"against": "b"}},
         "row 'b': against leads in a circle (b against c against b); set one of them against null"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_set_against_another_is_refused(tmp_path, rows, words):
    path = small(tmp_path, teachers={}, students={"plain": PLAIN} | rows)
    with pytest.raises(UserError) as error:
        read_study(path)
    assert str(error.value).startswith(f"{path}: {words}") and "\n" not in str(error.value)
    if "plain" not in rows:  # the same of rows of `teachers`
        path = small(tmp_path, teachers=rows, students={"plain": PLAIN})
        with pytest.raises(UserError) as error:
            read_study(path)
        assert str(error.value).startswith(f"{path}: {words.partition(';')[0]}")


def test_plain_may_say_that_it_is_set_against_none(tmp_path):
    study = read_study(small(tmp_path, students={"plain": PLAIN | {"against": None}}))
    assert against(study, "plain") is None


def test_of_some_rows_each_student_has_the_one_it_is_set_against(tmp_path):
    """Those of `teachers`, which nobody asks for by name, go with it: other with medium, shipped with other."""
    path = small(tmp_path, teachers=TEACHERS, students=STUDENTS)
    assert list(read_study(path, rows=["plain", "max"]).teachers) == ["teacher", "two", "alone"]
    assert list(read_study(path, rows=["plain", "medium"]).teachers) == list(TEACHERS)
    for row, other in (("medium-max", "medium"), ("max-50", "max")):
        with pytest.raises(UserError) as error:
            read_study(path, rows=["plain", row])
        told = f"{path}: row '{row}': against is {other}, which --rows leaves out; name it there too"
        assert str(error.value) == told
    with pytest.raises(UserError, match="key 'students' has no row 'plain'"):
        read_study(path, rows=["max"])
