"""Models and tokenizers from folders and the hub, and what is said where there is none."""

import pytest
from transformers import GPT2Config

from distill.base.errors import UserError
from distill.models.loading import load_model, load_teacher
from distill.recipe import TeacherConfig


def test_folders_without_a_model_are_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_model(str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"config\.json"):
        load_model(str(tmp_path))
    GPT2Config(n_embd=8, n_head=1, n_layer=1).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no weights"):
        load_teacher(TeacherConfig(path=str(tmp_path)))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pickle"):
        load_model(str(tmp_path))


def test_a_model_without_a_tokenizer_is_named(toy_model, tmp_path):
    toy_model().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no tokenizer"):
        load_teacher(TeacherConfig(path=str(tmp_path)))


def test_offline_hub_ids_fail_at_once(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"nobody/nothing.*(offline|OFFLINE)"):
        load_model("nobody/nothing")


@pytest.mark.parametrize(("name", "words"), [("eeger", "teacher.attention.*eeger"), ("flash_attention_2", "sdpa")])
def test_attention_that_cannot_be_had_is_a_users_mistake(name, words):
    with pytest.raises(UserError, match=words):
        load_teacher(TeacherConfig(attention=name))
