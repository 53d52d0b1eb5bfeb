"""What would end a study after hours is told before anything is drawn or trained."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from chat_templates import TEMPLATES, chat_tokenizer
from study_files import PLAIN, rewrite, small
from transformers import GPT2Config, GPT2LMHeadModel

from distill.base.errors import UserError
from distill.base.files import DEMO_TEACHER
from distill.models.loading import load_tokenizer
from distill.study.checks import check_data
from distill.study.file import read_study
from distill.study.run import run_study


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("letters.jsonl", '{"text": "a"}\n{"text"', ["letters.jsonl", "line 2"]),
        ("letters.jsonl", '{"words": "a"}\n', ["letters.jsonl", "text"]),
        ("letters.jsonl", "", ["letters.jsonl", "no text"]),
        ("nowhere/letters.jsonl", None, ["--data", "nowhere", "no folder"]),
    ],
)
def test_data_that_cannot_be_read_are_refused_before_training(tmp_path, monkeypatch, file, content, words):
    path = small(tmp_path)
    rewrite(path, texts={"letters": file.rpartition("/")[2]})
    if content is not None:
        (tmp_path / file).write_text(content, encoding="utf-8")
    monkeypatch.setattr("distill.study.run.make_text", None)
    with pytest.raises(UserError) as error:
        run_study(read_study(path, data=str((tmp_path / file).parent), rows=["plain"]))
    assert all(word in str(error.value) for word in words), error.value
    assert not (tmp_path / "out").exists()


def test_what_the_teacher_cannot_be_asked_is_told_before_training(tmp_path, monkeypatch, toy_model, toy_tokenizer):
    monkeypatch.setattr("distill.study.run.make_text", None)

    def refused(template, scores, words):
        tokenizer = chat_tokenizer(toy_tokenizer, "chatml")
        tokenizer.chat_template = template
        toy_model(vocab_size=len(tokenizer), n_positions=200).save_pretrained(tmp_path / "teacher")
        tokenizer.save_pretrained(tmp_path / "teacher")
        path = small(tmp_path)
        rewrite(path, settings={"teacher": {"path": str(tmp_path / "teacher")}, "scores": scores})
        with pytest.raises(UserError, match=words):
            run_study(read_study(path))

    refused(None, {"max_new_tokens": 195}, "exceed the context of the teacher, 200 tokens")
    refused(None, {"chat": True}, "has no chat template")
    refused(TEMPLATES["plain"], {"chat": True}, "says 'her' itself, a word of the list")


def test_files_that_the_studys_own_metrics_read_are_looked_at_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.study.run.make_text", None)
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("no vectors\n", encoding="utf-8")
    path = small(tmp_path)
    rewrite(path, metrics=["gender_polarity"], settings={"scores": {"word_vectors": str(vectors)}})
    with pytest.raises(UserError, match=r"vectors\.txt, line 1"):
        run_study(read_study(path))


def test_a_row_in_fewer_bits_without_torchao_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.models.quantization.is_torchao_available", lambda: False)
    monkeypatch.setattr("distill.study.run.make_text", None)
    path = small(tmp_path, teachers={"shipped": {"quantize": "int4"}}, students={"plain": PLAIN})
    words = r"row 'shipped': quantize: int4 needs the package torchao; pip install"
    with pytest.raises(UserError, match=words):
        run_study(read_study(path))
    target = {"op": "none", "reverse_roles": False}
    student = {"init": "config", "tokenizer": "demo", "config": {"model_type": "gpt2"}, "num_layers": None}
    without = {"teacher": {"path": None}, "loss": {"kd": 0.0, "ce": 1.0}, "target": target, "student": student}
    text = tmp_path / "text.txt"
    text.write_text("The king was here.\n", encoding="utf-8")
    files = {"source": "files", "files": [str(text)]}
    without |= {"corpus": files, "held_out": files}
    rewrite(path, settings=without, students={"plain": {"teacher": {"path": "demo"}}})
    with pytest.raises(UserError, match=words):
        run_study(read_study(path))


def test_a_teacher_in_fewer_bits_is_not_put_into_fewer_again(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.models.quantization.is_torchao_available", lambda: True)
    monkeypatch.setattr("distill.study.run.make_text", None)
    path = small(tmp_path, teachers={"shipped": {"quantize": "int4"}}, students={"plain": PLAIN})
    student = {"init": "config", "tokenizer": "demo", "config": {"model_type": "gpt2"}, "num_layers": None}
    rewrite(path, settings={"teacher": {"quantization": "int8"}, "student": student})
    with pytest.raises(
        UserError, match=r"row 'shipped': quantize asks for a copy of the teacher, which teacher\.quant"
    ):
        run_study(read_study(path))


def saved(folder: Path, model, tokenizer) -> str:
    """A model and its tokenizer in a folder; its path."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def refused(path: Path, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_data(read_study(path))
    assert not (path.parent / "out").exists()


def test_a_checkpoint_from_elsewhere_is_loaded_once_before_training(tmp_path, toy_model, toy_tokenizer):
    """Its weights, and not its configuration and tokenizer alone."""
    path = small(tmp_path, teachers={"other": {"path": str(tmp_path / "other")}}, students={"plain": PLAIN})
    model = toy_model(n_positions=128)
    saved(tmp_path / "other", model, toy_tokenizer)
    check_data(read_study(path))
    (tmp_path / "other" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "other" / "pytorch_model.bin")
    refused(path, "row 'other': .*its weights are a pickle")
    (tmp_path / "other" / "pytorch_model.bin").unlink()
    config = GPT2Config(vocab_size=10, n_positions=128, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    saved(tmp_path / "other", GPT2LMHeadModel(config), toy_tokenizer)
    refused(path, "row 'other': vocabularies differ")
    saved(tmp_path / "other", model, toy_tokenizer)
    toy_model(n_positions=64).config.save_pretrained(tmp_path / "other")
    refused(path, "row 'other': .*is of shape")


def test_a_checkpoint_from_elsewhere_reads_with_its_own_tokenizer(tmp_path, toy_model, toy_tokenizer):
    """The teacher's has a chat template and longer tokens."""
    teacher = tmp_path / "teacher"
    shutil.copytree(DEMO_TEACHER, teacher)
    tokenizer = load_tokenizer("demo")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer.save_pretrained(teacher)
    # As many tokens as the prompts are for the teacher, and 25: more for a tokenizer of other sentences.
    other = saved(tmp_path / "other", toy_model(n_positions=34), toy_tokenizer)
    path = small(tmp_path, teachers={"other": {"path": other}}, students={"plain": PLAIN})
    rewrite(path, settings={"teacher": {"path": str(teacher)}, "scores": {"max_new_tokens": 24}})
    refused(path, "exceed the context of row 'other', 34 tokens")
    saved(tmp_path / "other", toy_model(n_positions=128), toy_tokenizer)
    check_data(read_study(path))
    rewrite(path, settings={"scores": {"chat": True, "max_new_tokens": 4}})
    refused(path, "row 'other': .*has no chat template to put prompts into")
    said = [{"role": "user", "content": "Where is she?"}, {"role": "assistant", "content": "She is here."}]
    (tmp_path / "said.jsonl").write_text(json.dumps({"messages": said}) + "\n", encoding="utf-8")
    files = {"source": "files", "files": [str(tmp_path / "said.jsonl")], "text_column": "messages"}
    rewrite(path, settings={"scores": {"chat": False}, "held_out": files})
    refused(path, "row 'other': .*has no chat template, so it cannot read conversations")
    rewrite(path, metrics=["next_word_disparity"])  # nothing that reads them
    check_data(read_study(path))


SHORT = {"init": "config", "config": {"model_type": "gpt2", "n_positions": 24, "n_embd": 8, "n_layer": 1, "n_head": 1}}


def test_a_student_with_a_short_context_is_told_by_its_row(tmp_path):
    short = PLAIN | {"block_length": 24, "student": SHORT}
    later = PLAIN | {"block_length": 24, "student": {"init": "checkpoint", "path": "{student:short}"}}
    path = small(tmp_path, teachers={}, students={"plain": PLAIN, "short": short, "then": later})
    check_data(read_study(path))
    rewrite(path, settings={"scores": {"max_new_tokens": 20}})
    refused(path, "max_new_tokens 20 exceed the context of row 'short', 24 tokens")
    rewrite(path, metrics=["perplexity"], half_metrics=[])  # nothing that samples
    check_data(read_study(path))


def test_a_prompt_that_leaves_no_room_is_told_by_its_row(tmp_path):
    short = PLAIN | {"block_length": 24, "student": SHORT}
    rows = {"asked": {"prompt": "Beware of her, the queen, and of him:\n"}}
    path = small(tmp_path, teachers=rows, students={"plain": PLAIN, "short": short})
    check_data(read_study(path))
    rewrite(path, teachers={"asked": {"of": "short"}})
    refused(path, "row 'asked': prompt: its [0-9]+ tokens leave too little of the model's context of 24")
    rewrite(path, teachers={"asked": {"of": None, "prompt": "Beware of her. " * 30}})
    refused(path, "row 'asked': prompt: its [0-9]+ tokens leave too little of the model's context of 128")


def test_a_teacher_that_is_quantised_in_its_file_is_not_put_into_fewer_bits_again(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.models.quantization.is_torchao_available", lambda: True)
    shutil.copytree(DEMO_TEACHER, tmp_path / "small")
    config = json.loads((tmp_path / "small" / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (tmp_path / "small" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    path = small(tmp_path, teachers={"shipped": {"quantize": "int4"}}, students={"plain": PLAIN})
    rewrite(path, settings={"teacher": {"path": str(tmp_path / "small")}})
    refused(path, "row 'shipped': quantize asks for a copy of the teacher, which .*small holds in fewer bits already")
