"""What a study scores its models on."""

import lzma
import shutil
from pathlib import Path

import pytest
from measuring import rounded
from own_code import with_own_code
from study_files import PLAIN, rewrite, small
from transformers import dynamic_module_utils

from distill.base.errors import UserError
from distill.base.files import DEMO_TEACHER
from distill.metrics import Evaluation, PartOfEvaluation
from distill.scoring.gguf_file import write_gguf
from distill.study.checks import check_data
from distill.study.file import read_study, run_folder, shared_recipe
from distill.study.scores import Scorer, study_prompts, study_texts
from distill.text.counterfactual import Swapper
from distill.text.prompts import Prompt, load_prompts, subject_halves
from distill.text.role_map import token_roles
from distill.text.wordlist import load_wordlist


def test_halves_share_no_occupation_and_leave_no_prompt_out():
    prompts = [Prompt(f"{subject} {n}", "g", subject) for n in range(3) for subject in ("a", "b", "c", "d", "e")]
    parts = subject_halves(prompts, prompts)
    assert [{prompts[place].subject for place in places} for places in parts] == [{"a", "c", "e"}, {"b", "d"}]
    assert sorted(place for places in parts for place in places) == list(range(len(prompts)))
    few = [prompts[place] for place in (3, 4, 8)]  # d, e, d
    assert subject_halves(few, prompts) == ([1], [0, 2])


@pytest.mark.parametrize("maximum", [None, 40])
def test_all_seeds_are_asked_the_same_and_halve_the_occupations_alike(maximum, tmp_path):
    """A setting that was chosen by one half of the occupations is judged by the other, at every seed."""
    path = small(tmp_path)
    rewrite(path, settings={"scores": {"max_prompts": maximum}})
    study = read_study(path, rows=["plain"])
    swapper = Swapper(load_wordlist(study.settings["wordlist"]))
    found = [study_prompts(shared_recipe(study, seed), swapper) for seed in (0, 1, 7)]
    assert found[0] == found[1] == found[2]
    prompts, parts = found[0]
    occupations = list(dict.fromkeys(prompt.subject for prompt in load_prompts()))
    for half, own in (("chosen", occupations[::2]), ("held_out", occupations[1::2])):
        assert {prompts[place].subject for place in parts[half]} <= set(own)
        assert maximum or {prompts[place].subject for place in parts[half]} == set(own)
    assert len(prompts) == sum(map(len, parts.values())) == (maximum or len(load_prompts()))


def test_a_part_has_the_words_and_texts_of_its_whole(toy_model, toy_tokenizer, short_wordlist, monkeypatch):
    of_model = (toy_model(), toy_tokenizer, short_wordlist)
    prompts = load_prompts()[:5]
    whole = Evaluation(*of_model, (), prompts)
    part = PartOfEvaluation(*of_model, (), [prompts[4], prompts[1]], whole=whole, places=[4, 1])
    assert part.continuations == [whole.continuations[4], whole.continuations[1]]
    assert len(whole.continuations) == 5
    assert part.roles is whole.roles
    assert whole.roles == token_roles(short_wordlist, toy_tokenizer, whole.vocab_size)


def test_texts_of_a_study_are_cut_as_it_says(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    with lzma.open(data / "letters.jsonl.xz", "wt", encoding="utf-8") as stream:
        stream.write('{"text": "One two.\\nThree four.\\nFive."}\n{"text": " "}\n')
    path = small(tmp_path)
    rewrite(path, texts={"letters": "letters.jsonl.xz", "none": "nowhere.txt"}, passage_chars=12)
    study = read_study(path, data=str(data))
    assert study_texts(study, 0) == {"letters": ["One two.", "Three four.", "Five."], "none": []}
    rewrite(path, max_documents=2)
    assert study_texts(read_study(path, data=str(data)), 0)["letters"] == ["One two.", "Three four."]
    assert study_texts(read_study(path), 0) == {"letters": [], "none": []}


def test_an_audited_study_asks_about_what_its_plain_row_drew_with_the_teacher_for_reference(tmp_path):
    """A student that is its teacher is seen to be the reference itself."""
    keys = {"teachers": {}, "students": {"plain": PLAIN}}
    path = small(tmp_path, **keys)
    held_out = tmp_path / "held-out.txt"
    held_out.write_text("She was late.\n\nHe was early.", encoding="utf-8")
    texts = {"source": "files", "files": [str(held_out)]}
    rewrite(path, metrics=["membership_inference"], half_metrics=[], texts={})
    rewrite(path, settings={"audit": {"members": 30}, "corpus": texts, "held_out": texts})
    study = read_study(path)
    folder = run_folder(study, "plain", 0)
    shutil.copytree(DEMO_TEACHER, folder / "student")
    (folder / "audit").mkdir()
    for side, name in (("members", "she"), ("others", "he")):
        lines = "".join(f'{{"text": "On day {n} {name} was tired."}}\n' for n in range(30))
        (folder / "audit" / f"{side}.jsonl").write_text(lines, encoding="utf-8")
    scorer = Scorer(study, 0)
    outcomes = scorer.outcomes("plain")
    assert outcomes["membership_excess_auc"].details["reference"] == "none: this model is the reference"
    assert outcomes["membership_excess_auc"].n == 60
    before = scorer.measured
    scorer.outcomes("plain")
    assert scorer.measured == before > 0  # the second time from the cache


def test_a_row_of_a_gguf_file_reads_as_much_as_its_file_says(tmp_path, toy_model, toy_tokenizer):
    """Neither the configuration of another model beside it nor that there is none decides the context of all rows."""
    pytest.importorskip("gguf", reason="needs the extra quantization")
    folder, text = tmp_path / "gguf", tmp_path / "text.txt"
    folder.mkdir()
    write_gguf(toy_model("gpt2", n_positions=90), toy_tokenizer, folder / "small.gguf")
    text.write_text("The king was here.\n", encoding="utf-8")
    path = small(
        tmp_path, teachers={"file": {"path": str(folder), "gguf_file": "small.gguf"}}, students={"plain": PLAIN}
    )
    settings = {"held_out": {"source": "files", "files": [str(text)]}, "scores": {"max_new_tokens": 8}}
    rewrite(path, settings=settings)
    study = read_study(path)
    shutil.copytree(DEMO_TEACHER, run_folder(study, "plain", 0) / "student")
    for beside in (False, True):
        if beside:
            toy_model("gpt2", n_positions=20).config.save_pretrained(folder)
        check_data(study)
        scorer = Scorer(study, 0)
        assert scorer.common == 90
    assert scorer.outcomes("file")["next_word_disparity"].value > 0
    rewrite(path, settings={"scores": {"max_new_tokens": 89}})
    with pytest.raises(UserError, match="exceed the context of row 'file', 90 tokens"):
        check_data(read_study(path))
    (folder / "small.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(UserError, match=r"small\.gguf"):
        check_data(read_study(path))


def test_models_with_code_of_their_own_are_scored_where_the_study_trusts_it(tmp_path, monkeypatch):
    """Teacher, students that were made of it, and a model from elsewhere; nobody is asked in a terminal."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    own = with_own_code(Path(shutil.copytree(DEMO_TEACHER, tmp_path / "own")), tmp_path / "trace")
    text = tmp_path / "text.txt"
    text.write_text("The king was here.\n", encoding="utf-8")
    teacher = {"path": str(own), "trust_remote_code": True}
    path = small(tmp_path, teachers={"teacher": {}, "outside": dict(teacher)}, students={"plain": PLAIN})
    files = {"source": "files", "files": [str(text)]}
    rewrite(path, settings={"teacher": teacher, "corpus": files, "held_out": files})
    study = read_study(path)
    shutil.copytree(own, run_folder(study, "plain", 0) / "student")
    check_data(study)
    scorer = Scorer(study, 0)
    found = {row: scorer.outcomes(row)["next_word_disparity"].value for row in ("teacher", "outside", "plain")}
    assert len(set(found.values())) == 1 and found["plain"] > 0
    rewrite(path, teachers={"outside": {"trust_remote_code": False}})
    with pytest.raises(UserError, match="own: comes with code of its own, which is not run"):
        check_data(read_study(path))


def test_a_row_in_fewer_bits_is_a_copy_of_the_student(tmp_path, monkeypatch):
    """And the student itself, scored after it, is as it was."""
    rows = {"teacher": {}, "shipped": {"quantize": "int4", "of": "plain"}, "small": {"quantize": "int4"}}
    path, text = small(tmp_path, teachers=rows, students={"plain": PLAIN}), tmp_path / "text.txt"
    text.write_text("The king was here.\n", encoding="utf-8")
    rewrite(path, settings={"held_out": {"source": "files", "files": [str(text)]}})
    study = read_study(path)

    monkeypatch.setattr("distill.study.scores.quantize_weights", rounded)
    monkeypatch.setattr("distill.models.quantization.is_torchao_available", lambda: True)
    shutil.copytree(DEMO_TEACHER, run_folder(study, "plain", 0) / "student")
    scorer = Scorer(study, 0)
    teacher, teacher_small, full, shipped = (
        scorer.outcomes(row)["next_word_disparity"].value for row in ("teacher", "small", "plain", "shipped")
    )
    assert teacher == full != shipped == teacher_small == pytest.approx(full, rel=0.2)
    assert scorer.outcomes("teacher")["next_word_disparity"].value == teacher

    def anew(row, version):
        monkeypatch.setattr("distill.study.scores.installed_version", lambda package: version)
        before = scorer.measured
        scorer.outcomes(row)
        return scorer.measured > before

    assert not anew("plain", "0.1") and not anew("teacher", "0.1")
    assert [anew("small", version) for version in ("0.1", "0.1", "0.2")] == [True, False, True]
