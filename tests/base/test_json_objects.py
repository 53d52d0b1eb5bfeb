"""Keys that stand twice in an object of JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.base.json_objects import KeyTwiceError, line_of_second, unique_keys

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(VALUES)
def test_whole_json_is_read_as_ever(value):
    text = json.dumps(value)
    assert json.loads(text, object_pairs_hook=unique_keys) == json.loads(text)


@pytest.mark.parametrize(
    "text", ['{"a": 1, "b": 2, "a": 1}', '[{"b": {"a": 1, "a": 2}}]', '{"a": 1, "c": 3, "a": null, "c": 3}']
)
def test_a_key_that_stands_twice_is_named(text):
    with pytest.raises(KeyTwiceError, match="holds the key 'a' twice"):
        json.loads(text, object_pairs_hook=unique_keys)


def test_its_line_is_told_where_that_is_sure():
    text = '{\n "ä": {"x": 1},\n "b": {"x": 2},\n "ä" : 2}'
    assert line_of_second("ä", text) == 4
    assert line_of_second("x", text) == 3
    assert line_of_second("x", text + ', "x": 2') is None
    assert line_of_second("b", text) is None
