"""A model in other forms: the same next-word disparity, by the forms' own readers, and nothing where it is not."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_adapter import saved_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.base.errors import UserError
from distill.base.files import DEMO_TEACHER
from distill.cli import main
from distill.metrics.next_word_disparity.next_word_disparity import NextWordDisparity
from distill.models.loading import load_model, load_tokenizer
from distill.scoring import export as module
from distill.scoring.export import CHECK, FORMATS, export
from distill.scoring.gguf_file import write_gguf
from distill.text.counterfactual import Swapper
from distill.text.prompts import load_prompts

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def swapper(short_wordlist):
    return Swapper(short_wordlist)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """A few prompts, as a file."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("".join(f"{prompt.text}\n" for prompt in load_prompts()[:24]), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, toy_model, toy_tokenizer):
    """A function from an architecture to the folder of such a model, with all that may lie beside it. Shared."""
    home = tmp_path_factory.mktemp("models")

    def make(architecture: str) -> Path:
        folder = home / architecture
        if not folder.exists():
            toy_model(architecture).save_pretrained(folder)
            toy_tokenizer.save_pretrained(folder)
            (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
            (folder / "README.md").write_text("---\nlicense: mit\n---\nThe card.\n", encoding="utf-8")
        return folder

    return make


@pytest.fixture
def write(swapper, prompts):
    """A function from a model's folder, a form and a folder to what was checked."""

    def call(model, to, folder, **keys):
        return export(str(model), to, folder, **{"swapper": swapper, "prompts": prompts, **keys})

    return call


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("to", ["safetensors-fp16", "gguf"])
def test_a_model_in_another_form_is_the_same(saved, write, short_wordlist, prompts, tmp_path, to, architecture):
    if to == "gguf":
        pytest.importorskip("gguf", reason="needs the extra quantization")
    checked = write(saved(architecture), to, tmp_path / "out")
    told = NextWordDisparity().compute(
        model=str(saved(architecture)), wordlist=short_wordlist, prompts=prompts, bootstrap=10
    )
    assert checked.student == pytest.approx(told["value"], rel=1e-5) and checked.prompts == 24
    assert abs(checked.export - checked.student) <= checked.tolerance == 0.01
    assert 0 < checked.largest < 0.01  # 16 bits are not 32
    kept = json.loads((tmp_path / "out" / CHECK).read_text(encoding="utf-8"))
    assert (kept["student"], kept["export"], kept["format"]) == (checked.student, checked.export, to)
    assert kept["wordlist"]["sha256"] == short_wordlist.sha256


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_gguf_file_by_itself_scores_what_its_model_does(
    saved, write, short_wordlist, prompts, tmp_path, architecture
):
    """Weights, settings and tokenizer from one file, in a folder where nothing else lies."""
    pytest.importorskip("gguf", reason="needs the extra quantization")
    checked = write(saved(architecture), "gguf", tmp_path / "out")
    (tmp_path / "alone").mkdir()
    file = shutil.copy(tmp_path / "out" / "model.gguf", tmp_path / "alone")
    told = NextWordDisparity().compute(model=str(file), wordlist=short_wordlist, prompts=prompts, bootstrap=10)
    assert told["value"] == pytest.approx(checked.export, rel=1e-5)
    assert told["value"] == pytest.approx(checked.student, abs=0.01)


def test_the_card_of_the_demo_teacher_goes_along(write, tmp_path):
    write("demo", "safetensors-fp16", tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_bytes() == (DEMO_TEACHER / "README.md").read_bytes()


def test_what_belongs_to_a_model_goes_along(saved, write, toy_tokenizer, tmp_path):
    write(saved("gpt2"), "safetensors-fp16", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "README.md"}
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    model, tokenizer = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert model.dtype == torch.float16
    assert tokenizer.chat_template == TEMPLATE and tokenizer.get_vocab() == toy_tokenizer.get_vocab()
    text = tokenizer("The nurse said that she was tired.")["input_ids"]
    want, got = (logits(load_model(str(path)), text) for path in (saved("gpt2"), tmp_path / "out"))
    assert torch.allclose(want, got, atol=2e-3) and not torch.equal(want, got)


@pytest.mark.parametrize("to", ["safetensors-fp16", "gguf"])
def test_an_adapter_is_merged(write, toy_model, toy_tokenizer, tmp_path, to):
    for package in ("peft", "gguf"):
        pytest.importorskip(package, reason="needs the extras lora and quantization")
    adapter = saved_adapter(toy_model(), toy_tokenizer, tmp_path)
    base = write(tmp_path / "base", to, tmp_path / "of-base")
    checked = write(adapter, to, tmp_path / "of-adapter")
    assert abs(checked.student - base.student) > 0.01 > abs(checked.student - checked.export)
    assert not list((tmp_path / "of-adapter").glob("adapter*"))


def test_a_converter_is_given_a_whole_model_and_measured_as_well(
    write, toy_model, toy_tokenizer, tmp_path, monkeypatch
):
    """An adapter's folder is none that it could read; what it writes is read back like our own."""
    for package in ("peft", "gguf"):
        pytest.importorskip(package, reason="needs the extras lora and quantization")
    adapter, script, given = saved_adapter(toy_model(), toy_tokenizer, tmp_path), tmp_path / "convert.py", []

    def convert(converter, folder, path):
        given.append(converter)
        write_gguf(load_model(str(folder)), load_tokenizer(str(folder)), path)

    script.touch()
    monkeypatch.setattr(module, "run_converter", convert)
    checked = write(adapter, "gguf", tmp_path / "out", converter=script)
    assert given == [script] and checked.largest < 0.01 and (tmp_path / "out" / "model.gguf").exists()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_graph_for_onnx_runtime(saved, write, toy_tokenizer, tmp_path, architecture):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra onnx")
    import onnxruntime

    checked = write(saved(architecture), "onnx", tmp_path / "out")
    assert checked.tolerance == 0.001 and checked.largest < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    model = load_model(str(saved(architecture)))
    for length in (1, 5, 40):
        ids = torch.arange(2 * length).reshape(2, length) % len(toy_tokenizer)
        (got,) = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": torch.ones_like(ids).numpy()})
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(got), model(ids).logits, atol=1e-4)
    assert (tmp_path / "out" / "tokenizer.json").exists() and (tmp_path / "out" / "generation_config.json").exists()


# ------------------------------------------------------------------------------------------------------------ mistakes


def test_what_is_another_model_does_not_appear(saved, write, toy_model, tmp_path, monkeypatch):
    other, form = toy_model(seed=5), FORMATS["safetensors-fp16"]
    with torch.no_grad():
        other.transformer.wte.weight.mul_(30)
    monkeypatch.setitem(module.FORMATS, "safetensors-fp16", replace(form, read=lambda *_: other))
    with pytest.raises(UserError, match=r"is another model: next-word disparity 0\.\d+ of the student, \d\.\d+ of the"):
        write(saved("gpt2"), "safetensors-fp16", tmp_path / "out")
    assert not any(tmp_path.iterdir())


def upside_down(path):
    """Turn round the rows of the embedding, and of the head that is tied to it, in a file."""
    if path.suffix == ".safetensors":
        weights = load_file(path)
        weights["transformer.wte.weight"] = weights["transformer.wte.weight"].flip(0).contiguous()
        save_file(weights, path, metadata={"format": "pt"})
        return
    import gguf

    (rows,) = [t.data for t in gguf.GGUFReader(path, "r+").tensors if t.name == "token_embd.weight"]
    rows[:] = rows[::-1].copy()
    rows.flush()


@pytest.mark.parametrize(("to", "name"), [("safetensors-fp16", "model.safetensors"), ("gguf", "model.gguf")])
def test_a_file_that_was_written_wrongly_does_not_appear(saved, write, tmp_path, monkeypatch, to, name):
    if to == "gguf":
        pytest.importorskip("gguf", reason="needs the extra quantization")
    form = FORMATS[to]

    def wrongly(model, tokenizer, place):
        form.write(model, tokenizer, place)
        upside_down(place / name)

    monkeypatch.setitem(module.FORMATS, to, replace(form, write=wrongly))
    with pytest.raises(UserError, match=rf"^--to {to}: what was written is another model: .*the export was not kept$"):
        write(saved("gpt2"), to, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_means_that_agree_by_chance_do_not_pass():
    before, tolerance = np.array([1.0, -1.0, 0.5]), 0.01
    assert module._compared("gguf", before, before + 0.005, tolerance).largest == pytest.approx(0.005)
    with pytest.raises(UserError, match=r"is another model: .* differs by 2 at most"):
        module._compared("gguf", before, -before, tolerance)
    with pytest.raises(UserError, match="says nothing after some prompts"):
        module._compared("gguf", before, np.array([1.0, np.nan, 0.5]), tolerance)
    with pytest.raises(UserError, match="use another --wordlist"):
        module._compared("gguf", np.full(3, np.nan), before, tolerance)


def test_numbers_that_16_bits_cannot_hold_are_told(write, toy_model, toy_tokenizer, tmp_path):
    model = toy_model("gpt2")
    with torch.no_grad():
        model.transformer.ln_f.weight[0] = 1e6
    model.save_pretrained(tmp_path / "model")
    toy_tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"transformer\.ln_f\.weight has numbers that 16 bits cannot hold"):
        write(tmp_path / "model", "safetensors-fp16", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_an_export_is_replaced_and_only_by_force(saved, write, tmp_path):
    out = tmp_path / "out"
    write(saved("gpt2"), "safetensors-fp16", out)
    (out / "stale").touch()
    with pytest.raises(UserError, match="holds an export already; add --force to replace it"):
        write(saved("gpt2"), "safetensors-fp16", out)
    assert (out / "stale").exists()
    write(saved("gpt2"), "safetensors-fp16", out, force=True)
    assert not (out / "stale").exists()
    with pytest.raises(UserError, match="holds something that is no export"):
        write(saved("gpt2"), "safetensors-fp16", saved("llama"), force=True)
    with pytest.raises(UserError, match="is the model itself"):
        write(saved("gpt2"), "safetensors-fp16", saved("gpt2"), force=True)


def test_a_place_that_may_not_be_written_is_told_at_once(saved, write, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/out: cannot be written"):
        write(saved("gpt2"), "safetensors-fp16", tmp_path / "file" / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told_at_once(saved, write, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be written"):
        write(saved("gpt2"), "safetensors-fp16", tmp_path / "closed" / "out")


def test_a_disk_that_fills_up_is_one_sentence_and_leaves_nothing(saved, write, tmp_path, monkeypatch):
    def full(*arguments, **keys):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(UserError, match=r"(?i)no space left|disk is full"):
        write(saved("gpt2"), "safetensors-fp16", tmp_path / "out")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["MODEL", "--to", "gguf", "--converter", "nowhere.py"], "--converter nowhere.py: no such file"),
        (["MODEL", "--to", "onnx", "--converter", "x.py"], "--converter is of --to gguf, and --to is onnx"),
        (["nowhere", "--to", "safetensors-fp16"], "nowhere"),
        (["EMPTY", "--to", "safetensors-fp16"], "holds no config.json"),
        (["MODEL", "--to", "pickle"], "invalid choice: 'pickle'"),
        (["MODEL"], "required: --to"),
        (["MODEL", "--to", "safetensors-fp16", "--prompts", "none.txt"], "none.txt"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(saved, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    model = shutil.copytree(saved("gpt2"), tmp_path / "model")
    places = {"MODEL": str(model), "EMPTY": str(tmp_path / "empty")}
    assert main(["export", *(places.get(word, word) for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "model"}


@pytest.mark.parametrize(("to", "extra"), [("gguf", "quantization"), ("onnx", "onnx")])
def test_a_package_that_is_missing_is_told_with_its_extra(saved, write, tmp_path, monkeypatch, to, extra):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"^--to {to} needs the packages? .*; pip install 'distill\[{extra}\]'$"):
        write(saved("gpt2"), to, tmp_path / "out")


def test_the_command_prints_both_numbers_and_where_they_lie(saved, swapper, prompts, tmp_path, capsys):
    model = shutil.copytree(saved("gpt2"), tmp_path / "student")
    words = tmp_path / "words.tsv"
    words.write_text("male\tfemale\nhe\tshe\nhis\ther\nman\twoman\n", encoding="utf-8")
    call = ["export", str(model), "--to", "safetensors-fp16", "--prompts", prompts, "--wordlist", str(words)]
    assert main(call) == 0
    line, folder = capsys.readouterr().out.splitlines()
    assert line.startswith("next-word disparity 0.") and "of the student, 0." in line
    assert folder == str(tmp_path / "student-safetensors-fp16")
    assert main([*call, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompts"] == 24
