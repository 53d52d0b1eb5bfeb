"""The files of an audit."""

import json

import pytest

from distill.base.errors import UserError
from distill.metrics.audited import Audited, read_audited
from distill.metrics.membership_inference.membership_inference import MembershipInference
from distill.recipe import ScoreConfig


def test_files_are_read_member_by_member(tmp_path):
    (tmp_path / "in.txt").write_text("One text here.\nAnother text here.\nA third.\n", encoding="utf-8")
    (tmp_path / "out.jsonl").write_text(json.dumps({"text": "Not this one."}) + "\n", encoding="utf-8")
    found = read_audited(ScoreConfig(members=str(tmp_path / "in.txt"), others=str(tmp_path / "out.jsonl")))
    assert found.texts[-1] == "Not this one." and found.others == ["Not this one."]
    assert found == Audited(found.members, found.others, ())
    assert found.digest != Audited(found.others, found.members).digest
    assert read_audited(ScoreConfig()).texts == []


def test_evaluate_reads_them_too(tmp_path, toy_model, toy_tokenizer):
    for name in ("members", "others"):
        (tmp_path / f"{name}.txt").write_text(
            "".join(f"The {name} said that {n}.\n" for n in range(25)), encoding="utf-8"
        )
    files = {name: str(tmp_path / f"{name}.txt") for name in ("members", "others")}
    found = MembershipInference().compute(model=toy_model(), tokenizer=toy_tokenizer, bootstrap=20, **files)
    assert found["membership_excess_auc"]["n"] == 50


def test_conversations_are_no_texts(tmp_path):
    row = {"text": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "He."}]}
    (tmp_path / "talks.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    path = str(tmp_path / "talks.jsonl")
    with pytest.raises(UserError, match=r"talks\.jsonl: holds conversations"):
        read_audited(ScoreConfig(members=path, others=path))


def test_members_need_others(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("one\n", encoding="utf-8")
    for given_, missing in (("members", "others"), ("others", "members")):
        with pytest.raises(UserError, match=f"{given_} are given without {missing}"):
            read_audited(ScoreConfig(**{given_: str(path)}))
    with pytest.raises(UserError, match="nothere"):
        read_audited(ScoreConfig(members=str(tmp_path / "nothere.txt"), others=str(path)))


def test_texts_in_both_files_are_refused(tmp_path):
    for name, texts in (("in", ["One.", "Two.", "Three."]), ("out", ["Four.", " Two.\n", "Two.", "Three."])):
        lines = (json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    members, others = str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")
    with pytest.raises(UserError, match=r"2 texts stand in both .*in\.jsonl \(members\) and .*, such as 'Three\.'"):
        read_audited(ScoreConfig(members=members, others=others))


def test_a_column_of_another_name_is_told_how_it_must_be_called(tmp_path):
    path = str(tmp_path / "in.csv")
    (tmp_path / "in.csv").write_text("id,content\n1,One.\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"columns are: id, content\. Call that of the texts 'text'") as caught:
        read_audited(ScoreConfig(members=path, others=path))
    assert "text_column" not in str(caught.value)
