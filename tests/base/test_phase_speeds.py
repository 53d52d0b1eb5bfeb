"""What a clock told of the phases of a run: kept over its parts, and left out where it cannot be read."""

import json

import pytest

from distill.base.phase_speeds import phase_speeds_kept, read_phase_speeds


def test_parts_of_a_run_add_up(tmp_path):
    """100 tokens in 4 s, of which a card needed 1; 50 more in another life, in 6 s, of which it needed 2."""
    keep = phase_speeds_kept(tmp_path)
    keep("sampling", 4.0, 100, 1.0)
    keep("packing", 2.0, 30, 0.0)
    phase_speeds_kept(tmp_path)("sampling", 6.0, 50, 2.0)
    assert read_phase_speeds(tmp_path) == {
        "sampling": {
            "seconds": 10.0,
            "tokens": 150,
            "tokens_per_second": 15.0,
            "matrix_rate_share": pytest.approx(0.3),
        },
        "packing": {"seconds": 2.0, "tokens": 30, "tokens_per_second": 15.0},
    }
    assert list(read_phase_speeds(tmp_path)) == ["sampling", "packing"]


WHOLE = {"seconds": 1.0, "tokens": 2, "tokens_per_second": 2.0}


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{", '{"a": 3}', json.dumps({"a": WHOLE | {"tokens": "2"}}),
        json.dumps({"a": WHOLE | {"seconds": -1}}),
        json.dumps({"a": WHOLE | {"matrix_rate_share": None}}), '{"a": {"seconds": 1.0}}',
        json.dumps({"a": WHOLE | {"tokens": 10**400}}), "[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_record_tells_nothing_and_is_written_anew(content, tmp_path):
    assert read_phase_speeds(tmp_path) == {}
    (tmp_path / "phases.json").write_text(content, encoding="utf-8")
    assert read_phase_speeds(tmp_path) == {}
    phase_speeds_kept(tmp_path)("b", 1.0, 2, 0.0)
    assert read_phase_speeds(tmp_path) == {"b": WHOLE}


def test_what_is_not_of_a_phase_is_not_kept(tmp_path):
    (tmp_path / "phases.json").write_text(json.dumps({"a": WHOLE | {"more": float("nan")}}), encoding="utf-8")
    phase_speeds_kept(tmp_path)("b", 1.0, 2, 0.0)
    assert read_phase_speeds(tmp_path) == {"a": WHOLE, "b": WHOLE}


def test_a_disk_that_takes_nothing_stops_no_run(tmp_path):
    phase_speeds_kept(tmp_path / "none")("sampling", 4.0, 100, 1.0)
    assert read_phase_speeds(tmp_path / "none") == {}
