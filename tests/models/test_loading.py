"""Models and tokenizers from folders and the hub, and what is said where there is none."""

import json
from itertools import chain

import pytest
import torch
from architectures import ARCHITECTURES, toy
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from shared import TOY_ARCHITECTURES
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config

from distill.base.errors import UserError
from distill.cli import main
from distill.models import loading
from distill.models.loading import _OLD_MASK, check_weights, in_format, load_model, load_teacher, load_tokenizer
from distill.models.student import make_student
from distill.recipe import StudentConfig, TeacherConfig


def test_folders_without_a_model_are_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_model(str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"config\.json"):
        load_model(str(tmp_path))
    GPT2Config(n_embd=8, n_head=1, n_layer=1).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no weights"):
        load_teacher(TeacherConfig(path=str(tmp_path)))
    (tmp_path / "model.gguf").touch()  # as `distill export --to gguf` leaves it
    with pytest.raises(UserError, match=r"weights are in a GGUF file; give .*/model\.gguf, or name it in"):
        load_model(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pickle"):
        load_model(str(tmp_path))


def test_whether_a_hub_id_has_weights_is_left_to_what_loads_it(monkeypatch, tmp_path):
    """It would be asked for the weights of another commit than the one that is loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "adapter_folder", lambda *_, **__: pytest.fail("the hub was asked"))
    check_weights("some/model")


def test_a_model_without_a_tokenizer_is_named(toy_model, tmp_path):
    toy_model().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no tokenizer"):
        load_teacher(TeacherConfig(path=str(tmp_path)))


@pytest.mark.parametrize("path", ["a/b/c", "./nope", "nope/", "no pe"])
def test_what_can_be_no_hub_id_is_no_folder(path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("distill.models.loading.HfApi", None)  # it is not asked
    with pytest.raises(UserError, match="no such folder; give a model folder, a hub id or 'demo'"):
        load_model(path)


def test_the_folder_of_a_run_is_told_from_others(tmp_path):
    (tmp_path / "student").mkdir()
    with pytest.raises(UserError, match=r"holds no config\.json; it is not the folder of a transformers model"):
        load_model(str(tmp_path))
    (tmp_path / "student" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=f"a run lies there: give {tmp_path}/student"):
        load_model(str(tmp_path))


def test_without_a_network_it_is_said_that_there_is_no_such_folder(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for ask in (load_model, load_tokenizer):
        with pytest.raises(
            UserError, match=r"^nobody: .*: there is no such folder, and of the model hub: .* is set, so"
        ):
            ask("nobody")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, capsys):
    asked = []

    def model_info(self, name, timeout):
        asked.append((name, timeout))
        raise ConnectionError("Connection refused")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("distill.models.loading.HfApi.model_info", model_info)
    for ask in (load_model, load_tokenizer):
        with pytest.raises(UserError, match="nobody/at-home: no such folder, and the model hub does not answer"):
            ask("nobody/at-home")
    assert asked == [("nobody/at-home", 10.0)] * 2
    assert "no such folder here; looking for it on the model hub" in capsys.readouterr().err


def test_a_name_that_the_hub_does_not_know_is_told(monkeypatch):
    def model_info(self, name, timeout):
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)  # without the answer of a server

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("distill.models.loading.HfApi.model_info", model_info)
    with pytest.raises(UserError, match="nobody/unknown: neither a folder here nor a model of the hub"):
        load_model("nobody/unknown")


def test_a_hub_id_with_a_pickle_alone_is_told_as_a_folder_is(toy_model, monkeypatch, tmp_path):
    """As the hub's cache knows it: the files that the repository has, and those that it was asked for and has not."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--someone--old", "a" * 40
    model = toy_model()
    model.config.save_pretrained(repository / "snapshots" / commit)
    torch.save(model.state_dict(), repository / "snapshots" / commit / "pytorch_model.bin")
    for name in ("model.safetensors", "model.safetensors.index.json", "adapter_config.json"):
        missing = repository / ".no_exist" / commit / name
        missing.parent.mkdir(parents=True, exist_ok=True)
        missing.touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    with pytest.raises(UserError, match=r"^someone/old: holds no safetensors, .* set teacher\.allow_pickle \(student"):
        load_model("someone/old")
    assert torch.equal(load_model("someone/old", allow_pickle=True).lm_head.weight, model.lm_head.weight)


def test_offline_hub_ids_fail_at_once(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"nobody/nothing.*(offline|OFFLINE)"):
        load_model("nobody/nothing")


@pytest.mark.parametrize(("name", "words"), [("eeger", "teacher.attention.*eeger"), ("flash_attention_2", "sdpa")])
def test_attention_that_cannot_be_had_is_a_users_mistake(name, words):
    with pytest.raises(UserError, match=words):
        load_teacher(TeacherConfig(attention=name))


# ------------------------------------------------------------------------------------------ weights that are another's


@pytest.fixture
def changed(toy_model, toy_tokenizer, tmp_path):
    """A function from a model or an architecture, and a change of its weights, name -> tensor, to its folder."""

    def make(model, change):
        model = toy_model(model) if isinstance(model, str) else model
        model.save_pretrained(tmp_path / "model")
        toy_tokenizer.save_pretrained(tmp_path / "model")
        file = tmp_path / "model" / "model.safetensors"
        save_file({k: v.clone() for k, v in change(load_file(file)).items()}, file, metadata={"format": "pt"})
        return str(tmp_path / "model")

    return make


CHANGES = {
    "compiled": (lambda weights: {f"_orig_mod.{k}": v for k, v in weights.items()}, "are missing, .*_orig_mod"),
    "wrapped": (lambda weights: {f"module.{k}": v for k, v in weights.items()}, "are missing, .*module"),
    "a layer lost": (lambda weights: {k: v for k, v in weights.items() if ".2." not in k}, r"are missing, .*\.2\."),
    "a layer more": (
        lambda weights: weights | {k.replace(".3.", ".4."): v for k, v in weights.items() if ".3." in k},
        r"does not have, .*\.4\.",
    ),
    "a head of another size": (
        lambda weights: {k: v[:-1] if "embed" in k or "wte" in k or "head" in k else v for k, v in weights.items()},
        r"is of shape \(\d+, 32\) in the file, but \(\d+, 32\) by config",
    ),
    "one weight": (lambda weights: dict(list(weights.items())[1:]), "1 of the weights of a .* missing"),
}


@pytest.mark.parametrize("architecture", TOY_ARCHITECTURES)
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_are_not_the_models_are_refused_with_the_first_name(changed, architecture, change):
    """transformers loads each of these with random numbers in the place of what is missing, and only warns."""
    how, words = CHANGES[change]
    with pytest.raises(UserError, match=words) as error:
        load_model(changed(architecture, how))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("architecture", TOY_ARCHITECTURES)
def test_weights_as_they_were_saved_are_loaded(changed, architecture):
    folder = changed(architecture, dict)
    loaded, plain = load_model(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), plain.parameters(), strict=True))


def _old_masks(name, layers=4, positions=64):
    """What older versions of transformers wrote beside the weights of these models, by the names in published files."""
    mask = torch.ones(positions, positions, dtype=torch.uint8).tril()[None, None]
    inside = {
        "gpt2": {"attn.bias": mask, "attn.masked_bias": torch.tensor(-1e4)},
        "openai-gpt": {"attn.bias": mask.float()},
        "gpt_neo": {"attn.attention.bias": mask, "attn.attention.masked_bias": torch.tensor(-1e9)},
        "gptj": {"attn.bias": mask, "attn.masked_bias": torch.tensor(-1e9)},
        "codegen": {"attn.causal_mask": mask.bool()},
    }[name]
    return {f"transformer.h.{layer}.{key}": value for layer in range(layers) for key, value in inside.items()}


@pytest.mark.parametrize("architecture", ["gpt2", "openai-gpt", "gpt_neo", "gptj", "codegen"])
def test_masks_in_files_of_older_versions_are_no_weights(changed, tmp_path, architecture):
    """As in the files of EleutherAI/gpt-neo-125m: loaded, half of its layers taken, and saved without them."""
    model = toy(architecture, vocab_size=400)
    folder = changed(model, lambda weights: weights | _old_masks(architecture))
    teacher, tokenizer = load_teacher(TeacherConfig(path=folder))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(teacher.parameters(), model.parameters(), strict=True))
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        assert torch.equal(teacher(input_ids=ids).logits, model(input_ids=ids).logits)
    student = make_student(StudentConfig(), teacher, tokenizer, folder)
    student.save_pretrained(tmp_path / "student")
    assert not [name for name in load_file(tmp_path / "student" / "model.safetensors") if _OLD_MASK.search(name)]


def test_a_mask_of_another_kind_of_model_is_left_over(changed):
    with pytest.raises(
        UserError, match=r"1 weights that a LlamaForCausalLM does not have, model\.layers\.0\.attn\.bias"
    ):
        load_model(changed("llama", lambda weights: weights | {"model.layers.0.attn.bias": torch.zeros(32)}))


def test_a_classifier_is_no_language_model(toy_model, tmp_path):
    config = toy_model("llama").config
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"lm_head\.weight.*score\.weight"):
        load_model(str(tmp_path))


def test_scoring_such_a_folder_ends_with_code_2(changed, tmp_path, capsys):
    folder = changed("gpt2", CHANGES["compiled"][0])
    assert main(["score", folder, "--metrics", "next_word_disparity", "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "lm_head.weight" in error or "transformer.h.0" in error
    assert "Traceback" not in error and "LOAD REPORT" not in error
    assert not (tmp_path / "out" / "scores.json").exists()


def test_an_adapter_is_not_left_out_silently(toy_model, tmp_path):
    toy_model().save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(UserError, match="merge it into its base"):
        load_model(str(tmp_path))


FORMATS = ["gpt2", "llama", "openai-gpt", "codegen", "deepseek_v3", "gemma3_text"]


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=() if name in FORMATS else pytest.mark.slow) for name in sorted(ARCHITECTURES)],
)
def test_a_copy_in_another_format_is_what_would_have_been_loaded(architecture, tmp_path):
    """Every weight and buffer, and the logits, to the bit."""
    toy(architecture).save_pretrained(tmp_path)
    whole, half = (
        AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval() for dtype in (torch.float32, torch.bfloat16)
    )
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    copied = in_format(whole, torch.bfloat16)
    ours, theirs = (dict(chain(model.named_parameters(), model.named_buffers())) for model in (copied, half))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole.state_dict().items())
    assert copied.config._attn_implementation == whole.config._attn_implementation
    assert not copied.training
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        try:
            expected = half(input_ids=ids).logits
        except (RuntimeError, ValueError) as error:
            pytest.skip(f"transformers cannot read with it in bfloat16: {error}")
        assert torch.equal(copied(input_ids=ids).logits, expected)


def test_tied_weights_stay_tied_in_another_format(toy_model):
    copied = in_format(toy_model(), torch.bfloat16)
    assert copied.get_output_embeddings().weight is copied.get_input_embeddings().weight


def test_a_head_of_its_own_stays_one_in_another_format_whatever_the_configuration_says(tmp_path):
    """A file with both matrices under a configuration that says tied: neither is put into the place of the other."""
    toy("llama", tie_word_embeddings=False).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}), encoding="utf-8")
    copied = in_format(load_model(str(tmp_path)), torch.bfloat16)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    weights = load_file(tmp_path / "model.safetensors")
    assert torch.equal(copied.lm_head.weight, weights["lm_head.weight"].bfloat16())
    assert torch.equal(copied.model.embed_tokens.weight, weights["model.embed_tokens.weight"].bfloat16())
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        assert torch.equal(copied(input_ids=ids).logits, expected(input_ids=ids).logits)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_copy_in_another_format_lies_where_the_model_does(toy_model):
    model = toy_model().cuda()
    copied = in_format(model, torch.bfloat16)
    ids = torch.arange(24, device="cuda").view(2, 12)
    with torch.no_grad():
        assert (copied(input_ids=ids).logits.float() - model(input_ids=ids).logits).abs().max() < 0.05
