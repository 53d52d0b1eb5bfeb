"""Each row's student, made once before any is trained."""

import shutil

import pytest
from study_files import PLAIN, rewrite, small

from distill.base.errors import UserError
from distill.base.files import DEMO_TEACHER
from distill.models.loading import load_teacher, load_tokenizer
from distill.models.student import train_tokenizer
from distill.study import untrained
from distill.study.file import read_study, run_folder
from distill.study.run import run_study
from distill.study.untrained import row_students

LORA = {"init": "teacher", "lora": {"r": 2}}
GPT2 = {"model_type": "gpt2", "n_positions": 128, "n_embd": 8, "n_layer": 1, "n_head": 1}
ALONE = {"teacher": {"path": None}, "loss": {"kd": 0.0, "ce": 1.0, "listed": 0.0}, "target": PLAIN["target"]}
OWN = {"init": "config", "tokenizer": "train", "vocab_size": 400, "config": GPT2}


def rows(folder, **students):
    """What is known of the students of these rows beside `plain`."""
    return row_students(read_study(small(folder, teachers={}, students={"plain": PLAIN, **students})))


def on_files(folder, **keys):
    """A row without a teacher, on text of its own."""
    text = folder / "text.txt"
    text.write_text("The king was here.\n", encoding="utf-8")
    files = {"source": "files", "files": [str(text)]}
    return ALONE | {"corpus": files, "held_out": files} | keys


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"student": {"init": "checkpoint", "path": "nowhere/at/all"}}, "row 'bad': nowhere/at/all: no such folder"),
        ({"student": {"init": "config", "config": GPT2 | {"n_haed": 1}}}, "row 'bad': .*no key 'n_haed'"),
        ({"student": {"init": "config", "config": GPT2 | {"n_positions": 64}}}, "row 'bad': block_length is 128, but"),
        ({"block_length": 129}, "row 'bad': block_length is 129, but demo has only 128 positions"),
        ({"teacher": {"path": "nowhere/at/all"}}, "row 'bad': nowhere/at/all: no such folder"),
        # Made from what is not there yet.
        (
            {"teacher": {"path": "{student:plain}"}, "student": {"num_layers": 3}},
            "row 'bad': student.num_layers is 3, but the teacher has 2 layers",
        ),
        (
            {"student": {"init": "checkpoint", "path": "{student:plain}"}, "block_length": 129},
            "row 'bad': block_length is 129, but ",
        ),
        (
            {"teacher": {"path": "{student:lora}"}, "student": LORA},
            "row 'bad': student.lora: its base is the student of row 'lora', an adapter itself",
        ),
        (
            {"student": {"init": "checkpoint", "path": "{student:lora}", "lora": {"r": 2}}},
            "row 'bad': student.lora: its base is the student of row 'lora', an adapter itself",
        ),
    ],
)
def test_a_row_that_cannot_be_made_is_told(tmp_path, keys, words):
    students = {}
    if "lora" in words:
        pytest.importorskip("peft", reason="needs the extra lora")
        students["lora"] = PLAIN | {"student": LORA}
    with pytest.raises(UserError, match=words):
        rows(tmp_path, **students, bad=keys)


def test_a_row_that_cannot_be_made_is_told_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.study.run.make_text", None)
    bad = {"student": {"num_layers": 9}}
    with pytest.raises(UserError, match=r"row 'bad': student\.num_layers is 9, but the teacher has 4 layers"):
        run_study(read_study(small(tmp_path, teachers={}, students={"plain": PLAIN, "bad": bad})))
    assert not (tmp_path / "out").exists()


def test_a_student_without_a_teacher_is_told_by_its_row(tmp_path):
    assert rows(tmp_path, own=on_files(tmp_path, student=OWN))["own"].tokenizer is None
    with pytest.raises(UserError, match=r"row 'own': student\.config: gpt2 has no key 'n_haed'"):
        rows(tmp_path, own=on_files(tmp_path, student=OWN | {"config": GPT2 | {"n_haed": 1}}))


def test_a_student_of_another_tokenizer_than_its_teachers_is_told_by_its_row(tmp_path):
    train_tokenizer(["She was here."], 260).save_pretrained(tmp_path / "words")
    own = on_files(tmp_path, student={"init": "config", "tokenizer": str(tmp_path / "words"), "config": GPT2})
    start = {"init": "checkpoint", "path": "{student:own}"}
    on = on_files(tmp_path, student=start | {"tokenizer": "{student:own}"})
    assert len(rows(tmp_path, own=own, on=on)["on"].tokenizer) == len(load_tokenizer(str(tmp_path / "words")))
    with pytest.raises(
        UserError, match=r"row 'on': student\.path: the student of row 'own' has another tokenizer than"
    ):
        rows(tmp_path, own=own, on=PLAIN | {"student": start})


def test_rows_that_differ_in_nothing_of_their_student_share_one(tmp_path, monkeypatch):
    loaded, made = [], []
    monkeypatch.setattr(untrained, "load_teacher", lambda config: loaded.append(config) or load_teacher(config))
    make = untrained.make_student
    monkeypatch.setattr(untrained, "make_student", lambda *given: made.append(given[0]) or make(*given))
    found = rows(
        tmp_path,
        cached={"teacher": {"cache_hidden_states": True}},
        one={"student": {"num_layers": 1}},
        half={"teacher": {"dtype": "bfloat16"}},
        mean={"target": {"op": "mean"}},
        behind={"teacher": {"path": "{student:one}"}},
    )
    assert list(found) != [] and found.keys() == {"plain", "cached", "one", "half", "mean", "behind"}
    assert len(loaded) == 2 and len(made) == 3
    assert found["plain"] is found["cached"] is found["mean"]
    assert {student.context for student in found.values()} == {128}


def test_an_adapter_over_one_that_is_merged_can_be_made(tmp_path):
    pytest.importorskip("peft", reason="needs the extra lora")
    start = {"init": "checkpoint", "path": "{student:lora}"}
    found = rows(
        tmp_path,
        lora=PLAIN | {"student": LORA},
        merged={"student": start | {"lora": {"r": 2, "merge": True}}},
        again={"student": {"init": "checkpoint", "path": "{student:merged}", "lora": {"r": 2}}},
        layers={"teacher": {"path": "{student:lora}"}, "student": {"num_layers": 4}},
    )
    assert {row for row, student in found.items() if student.adapter} == {"lora", "again"}


def test_what_is_finished_is_not_made_again(tmp_path, monkeypatch, toy_model, toy_tokenizer):
    """What it was made from may be gone; what it reads is said by what lies there."""
    path = small(tmp_path, teachers={}, students={"plain": PLAIN, "gone": {"student": {"num_layers": 9}}})
    study = read_study(path)
    for row in ("plain", "gone"):
        folder = run_folder(study, row, 0)
        shutil.copytree(DEMO_TEACHER, folder / "student")
        (folder / "scores.json").write_text("{}", encoding="utf-8")
    toy_model(n_positions=40).save_pretrained(run_folder(study, "gone", 0) / "student")
    monkeypatch.setattr(untrained, "load_teacher", None)
    found = row_students(study)
    assert (found["plain"].context, found["gone"].context) == (128, 40)
    monkeypatch.undo()
    rewrite(
        path, students={"then": {"student": {"init": "checkpoint", "path": "{student:plain}", "attention": "none"}}}
    )
    with pytest.raises(UserError, match=r"row 'then': student\.attention: none"):  # made of what is there
        row_students(read_study(path))
