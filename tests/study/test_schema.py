"""What a study file may hold."""

import dataclasses
import re

import pytest

from distill.study.schema import BASELINE, HALVES, Study


def test_every_key_is_explained_in_order():
    arguments = Study.__doc__.partition("Args:")[2]
    assert re.findall(r"^ {8}(\w+): \S", arguments, flags=re.MULTILINE) == [f.name for f in dataclasses.fields(Study)]


def test_a_study_is_frozen_and_its_defaults_are_its_own():
    one, other = Study(), Study()
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.jobs = 2
    one.students["row"] = {}
    assert other.students == {}


def test_names_of_halves_and_of_the_baseline_differ():
    assert len({BASELINE, *HALVES}) == 3
