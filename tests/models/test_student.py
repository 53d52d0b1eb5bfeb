"""Students: layers of a teacher, another checkpoint, or random weights; and their tokenizers."""

import json

import pytest
import torch
from architectures import ARCHITECTURES, CAUSAL, NO_LAYERS, toy
from safetensors.torch import load_file
from shared import TOY_ARCHITECTURES, TOY_TEXT
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, GenerationConfig, GPT2Config, GPT2LMHeadModel

from distill.base.errors import UserError
from distill.models.architecture import (
    decoder_layers,
    number_of_layers,
    parameter_count,
    special_tokens,
    weights_hash,
)
from distill.models.loading import in_format, load_teacher, load_tokenizer
from distill.models.student import chosen_layers, make_student, student_from_layers, train_tokenizer
from distill.recipe import Recipe, StudentConfig, TeacherConfig
from distill.training.run import Models, write_student

IDS = torch.arange(30, 54).view(2, 12)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("name", sorted(CAUSAL))
def test_a_student_of_all_layers_is_its_teacher_also_when_it_is_read_again(tmp_path, name):
    teacher = toy(name)
    student = student_from_layers(teacher, list(range(number_of_layers(teacher.config)))).eval()
    torch.testing.assert_close(logits(student), logits(teacher), rtol=1e-5, atol=1e-6)
    student.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    torch.testing.assert_close(logits(again), logits(teacher), rtol=1e-5, atol=1e-6)


def without(model, left_out):
    """The logits of a model some of whose layers hand on what they are given."""

    def hand_on(module, args, kwargs, output):
        given = args[0] if args else kwargs["hidden_states"]
        return (given, *output[1:]) if isinstance(output, tuple | list) else given

    layers = decoder_layers(model)[1]
    hooks = [layers[number].register_forward_hook(hand_on, with_kwargs=True) for number in left_out]
    try:
        return logits(model)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("name", sorted(CAUSAL - NO_LAYERS))
@pytest.mark.parametrize("kept", ["ends", "last two"])
def test_a_student_of_some_layers_answers_as_the_teacher_without_the_others(tmp_path, name, kept):
    teacher = toy(name, seed=1)
    before = teacher.config.to_dict()
    depth = number_of_layers(teacher.config)
    layers = [0, depth - 1] if kept == "ends" else [depth - 2, depth - 1]
    if (name, kept) in NOT_THESE_LAYERS:
        with pytest.raises(UserError, match=r"^student.init: layers: no .* can be made of the layers \[2, 3\] alone"):
            student_from_layers(teacher, layers)
        return
    student = student_from_layers(teacher, layers).eval()
    expected = without(teacher, set(range(depth)) - set(layers))
    torch.testing.assert_close(logits(student), expected, rtol=1e-4, atol=1e-5)
    if kept == "ends":  # the way to a file and back is that of others too
        student.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
        torch.testing.assert_close(logits(again), expected, rtol=1e-4, atol=1e-5)
    assert teacher.config.to_dict() == before and len(decoder_layers(teacher)[1]) == depth


NOT_THESE_LAYERS = {("rwkv", "last two")}  # its first layer has a norm more


@pytest.mark.parametrize("name", sorted(NO_LAYERS))
def test_layers_that_depend_on_their_number_are_refused(name):
    teacher = toy(name)
    before = teacher.config.to_dict()
    with pytest.raises(UserError, match=r"^student.init: layers: .* use init: checkpoint with a student of your own$"):
        student_from_layers(teacher, [1, 3])
    assert teacher.config.to_dict() == before
    assert len(decoder_layers(teacher)[1]) == 4


@pytest.mark.parametrize("name", ["gemma3n_text", "gemma4_text"])
def test_layers_that_use_the_keys_of_earlier_ones_are_taken_with_them_or_not_at_all(name):
    """The last two of four layers have no keys and values: each uses those of the one two before it."""
    teacher = toy(name, num_kv_shared_layers=2)
    student = student_from_layers(teacher, [1, 3]).eval()
    torch.testing.assert_close(logits(student), without(teacher, [0, 2]), rtol=1e-4, atol=1e-5)
    assert student.config.num_kv_shared_layers == 1
    assert student_from_layers(teacher, [0, 1]).config.num_kv_shared_layers == 0
    with pytest.raises(UserError, match=r"of the layers \[0, 3\]"):
        student_from_layers(teacher, [0, 3])


def test_which_layers_of_qwen_have_experts_goes_with_them():
    """Every second one of the teacher has; of its layers 1, 2 and 3 those are the first and the last."""
    student = student_from_layers(toy("qwen2_moe", decoder_sparse_step=2), [1, 2, 3])
    kinds = [type(layer.mlp).__name__ for layer in student.model.layers]
    assert kinds == ["Qwen2MoeSparseMoeBlock", "Qwen2MoeMLP", "Qwen2MoeSparseMoeBlock"]


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_the_student_is_made_from_the_weights_whatever_the_configuration_says_of_them(
    tmp_path, toy_tokenizer, tied, says
):
    """A file with a head of its own under a configuration that says tied, as public checkpoints have it."""
    toy("llama", vocab_size=400, tie_word_embeddings=tied).save_pretrained(tmp_path)
    toy_tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": says}), encoding="utf-8")
    if tied and not says:
        with pytest.raises(UserError, match=r"lm_head\.weight"):
            load_teacher(TeacherConfig(path=str(tmp_path)))
        return
    teacher, _ = load_teacher(TeacherConfig(path=str(tmp_path)))
    student = make_student(StudentConfig(num_layers=4), teacher, toy_tokenizer, "t").eval()
    assert torch.equal(student.get_input_embeddings().weight, teacher.get_input_embeddings().weight)
    assert torch.equal(logits(student), logits(teacher))
    student.save_pretrained(tmp_path / "student")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "student")), logits(teacher))


def rwkv_folder(folder, tokenizer):
    """Of more layers than are divided by nothing: 2 and 3 of four by 2."""
    model = toy("rwkv", vocab_size=400, rescale_every=2)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(3)  # so that what a layer does shows
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def as_in_file(folder):
    """The logits of transformers' own model that divides nothing."""
    return logits(AutoModelForCausalLM.from_pretrained(folder, rescale_every=0).eval())


def test_the_weights_of_rwkv_are_those_of_its_file_however_often_it_was_asked(tmp_path, toy_tokenizer):
    """transformers divides those of the upper layers in memory by the first pass in eval mode."""
    folder = rwkv_folder(tmp_path / "teacher", toy_tokenizer)
    teacher, _ = load_teacher(TeacherConfig(path=folder))
    torch.testing.assert_close(logits(teacher), as_in_file(folder))
    for name, weight in load_file(tmp_path / "teacher" / "model.safetensors").items():
        assert torch.equal(teacher.get_parameter(name), weight), name
    half = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, rescale_every=0).eval()
    assert torch.equal(logits(in_format(teacher, torch.bfloat16)), logits(half))

    layers = [0, 2, 3]
    student = make_student(StudentConfig(layers=layers), teacher, toy_tokenizer, "t").eval()
    plain = AutoModelForCausalLM.from_pretrained(folder, rescale_every=0).eval()
    torch.testing.assert_close(logits(student), without(plain, {1}), rtol=1e-4, atol=1e-5)
    assert (as_in_file(folder) - without(plain, {1})).abs().max() > 0.01


@pytest.mark.parametrize("init", ["checkpoint", "config", "teacher"])
def test_an_rwkv_student_that_was_asked_is_saved_whole(tmp_path, toy_tokenizer, init):
    """Behind a pass in eval mode, as the last step's probe makes, and read again by plain transformers."""
    folder = rwkv_folder(tmp_path / "teacher", toy_tokenizer)
    teacher, _ = load_teacher(TeacherConfig(path=folder))
    keys = {"path": folder} if init == "checkpoint" else {}
    if init == "config":
        keys["config"] = {"model_type": "rwkv", **ARCHITECTURES["rwkv"], "rescale_every": 2}
    student = make_student(StudentConfig(init=init, **keys), teacher, toy_tokenizer, "t")
    student.train()(input_ids=IDS)
    asked = logits(student.eval())
    torch.testing.assert_close(logits(teacher), as_in_file(folder))
    recipe = Recipe(student=StudentConfig(init=init, **keys))
    models = Models(student, teacher, toy_tokenizer, (), {})
    write_student(recipe, models, student.state_dict(), tmp_path / "student")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()), asked)


def test_no_student_is_made_of_an_rwkv_teacher_in_float16(tmp_path, toy_tokenizer):
    folder = rwkv_folder(tmp_path / "teacher", toy_tokenizer)
    teacher, _ = load_teacher(TeacherConfig(path=folder, dtype="float16"))
    with pytest.raises(
        UserError, match=r"is layers, but in float16 the teacher t \(RWKV\) .* set teacher.dtype to float32"
    ):
        make_student(StudentConfig(layers=[0, 2]), teacher, toy_tokenizer, "t")


@pytest.mark.parametrize("architecture", list(TOY_ARCHITECTURES))
def test_a_student_takes_the_chosen_layers(toy_model, toy_tokenizer, architecture):
    teacher = toy_model(architecture)
    student = make_student(StudentConfig(layers=[1, 3]), teacher, toy_tokenizer, "teacher")
    assert student.config.num_hidden_layers == 2
    names = [n for n, _ in teacher.named_parameters() if ".1." in n or ".3." in n]
    assert names
    theirs, ours = dict(teacher.named_parameters()), dict(student.named_parameters())
    for name in names:
        renamed = name.replace(".1.", ".0.", 1) if ".1." in name else name.replace(".3.", ".1.", 1)
        assert torch.equal(ours[renamed], theirs[name]), name
        assert ours[renamed].data_ptr() != theirs[name].data_ptr()


@pytest.mark.parametrize(
    ("depth", "keep", "want"),
    [
        (12, None, [0, 2, 4, 7, 9, 11]),
        (4, None, [0, 3]),
        (24, 3, [0, 12, 23]),
        (3, 1, [0]),
        (1, None, [0]),
        (5, 5, [0, 1, 2, 3, 4]),
    ],
)
def test_default_layers_are_spread_evenly(depth, keep, want):
    class Teacher:
        config = GPT2Config(n_layer=depth)

    assert chosen_layers(StudentConfig(num_layers=keep), Teacher()) == want


def test_saved_students_load_with_plain_transformers(toy_model, toy_tokenizer, tmp_path):
    student = make_student(StudentConfig(), toy_model(), toy_tokenizer, "t")
    student.save_pretrained(tmp_path)
    toy_tokenizer.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert parameter_count(again) == parameter_count(student)
    assert load_tokenizer(str(tmp_path))(TOY_TEXT)["input_ids"] == toy_tokenizer(TOY_TEXT)["input_ids"]
    assert weights_hash(again) == weights_hash(student)


@pytest.mark.parametrize("init", ["layers", "checkpoint", "config"])
def test_a_student_keeps_sound_generation_settings_and_all_end_tokens(toy_model, tmp_path, capsys, init):
    """As of instruct models: two end tokens, and a temperature without sampling, which transformers does not save."""
    tokenizer = train_tokenizer([TOY_TEXT] * 4, 400)
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True)])
    teacher = toy_model(vocab_size=343)
    ends = [tokenizer.eos_token_id, 342]
    teacher.generation_config = GenerationConfig(eos_token_id=[342, ends[0]], temperature=0.6, repetition_penalty=1.1)
    keys = {"init": init}
    if init == "checkpoint":
        toy_model(vocab_size=343).save_pretrained(tmp_path / "other")
        tokenizer.save_pretrained(tmp_path / "other")
        keys["path"] = str(tmp_path / "other")
    elif init == "config":
        keys["config"] = {"model_type": "gpt2", **TOY_ARCHITECTURES["gpt2"]}
    student = make_student(StudentConfig(**keys), teacher, tokenizer, "t")
    student.save_pretrained(tmp_path / "student")
    again = GenerationConfig.from_pretrained(tmp_path / "student")
    assert again.eos_token_id == ends
    assert again.repetition_penalty == (1.1 if init == "layers" else GenerationConfig().repetition_penalty)
    assert ("cannot hold temperature" in capsys.readouterr().err) == (init == "layers")
    assert teacher.generation_config.temperature == 0.6


def test_trained_tokenizer_gives_text_back(toy_tokenizer):
    for text in (TOY_TEXT, "naïve 漢字 👩‍⚕️\t\r\n  x", ""):
        assert toy_tokenizer.decode(toy_tokenizer(text)["input_ids"]) == text
    assert special_tokens(toy_tokenizer) == (0, 0)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (StudentConfig(layers=[0, 4]), ["student.layers", "[4]", "0 to 3"]),
        (StudentConfig(layers=[]), ["student.layers", "empty"]),
        (StudentConfig(num_layers=9), ["student.num_layers", "9", "4 layers"]),
        (StudentConfig(init="config", config={"model_type": "gpt3"}), ["student.config", "gpt3"]),
        (StudentConfig(init="config", config={"model_type": "gpt2", "n_layerz": 2}), ["n_layerz", "'n_layer'"]),
        (
            StudentConfig(init="config", config={"model_type": "gpt2", "n_layer": "six"}),
            ["student.config", "'n_layer' expected int, got str (value: 'six')"],
        ),
        (
            StudentConfig(init="config", config={"model_type": "llama", "hidden_size": 20, "num_attention_heads": 6}),
            ["student.config", "hidden size (20) is not a multiple of the number of attention heads (6)"],
        ),
        (
            StudentConfig(init="config", config={"model_type": "gpt2", "n_embd": 20, "n_head": 6, "n_layer": 1}),
            ["student.config", "of the type gpt2", "divisible", "20"],
        ),
        (StudentConfig(init="config", config={"model_type": "t5"}), ["student.config", "no causal", "type t5"]),
        (
            StudentConfig(
                init="config", config={"model_type": "smollm3", **ARCHITECTURES["llama"], "pad_token_id": 999}
            ),
            ["student.config", "type smollm3", "adding_idx"],
        ),
    ],
)
def test_mistakes_in_the_student_are_named(toy_model, toy_tokenizer, config, words):
    with pytest.raises(UserError) as error:
        make_student(config, toy_model(), toy_tokenizer, "teacher")
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["cohere", "gemma2", "mamba2", "nanochat", "opt", "phi3", "smollm3"])
def test_a_student_of_a_configuration_learns_a_row_for_every_token(toy_tokenizer, name):
    """The padding token of these classes is another tokenizer's: here start, end, a letter, or none of the tokens."""
    keys = {**ARCHITECTURES.get(name, ARCHITECTURES["llama"]), "tie_word_embeddings": False}
    keys.pop("pad_token_id", None)
    config = StudentConfig(init="config", config={"model_type": name, **keys})
    student = make_student(config, None, toy_tokenizer, None)
    rows = student.get_input_embeddings().weight
    assert rows.shape[0] >= len(toy_tokenizer) and rows.norm(dim=1).min() > 0
    student(input_ids=torch.tensor([[0, 1, 2, 3]])).logits.square().sum().backward()
    assert rows.grad[:3].norm(dim=1).min() > 0


def test_another_vocabulary_fails_at_once_with_both_names_and_sizes(toy_model, toy_tokenizer, tmp_path):
    other = train_tokenizer(["completely different words in here, over and over"] * 9, 300)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path)
    other.save_pretrained(tmp_path)
    config = StudentConfig(init="checkpoint", path=str(tmp_path))
    with pytest.raises(UserError) as error:
        make_student(config, toy_model(), toy_tokenizer, "the-teacher")
    for word in ("the-teacher", str(len(toy_tokenizer)), str(tmp_path), str(len(other))):
        assert word in str(error.value)


def test_a_tokenizer_beside_a_teacher_has_the_teachers_tokens(toy_model, toy_tokenizer, tmp_path):
    """It would be left unread otherwise, and the student's vocabulary be another than its recipe says."""
    toy_tokenizer.save_pretrained(tmp_path / "same")
    train_tokenizer(["completely different words in here"] * 9, 300).save_pretrained(tmp_path / "other")
    make_student(StudentConfig(tokenizer=str(tmp_path / "same")), toy_model(), toy_tokenizer, "the-teacher")
    for name, words in (("other", "tokenizers differ: teacher the-teacher"), ("nowhere", "nowhere: no such folder")):
        with pytest.raises(UserError, match=words):
            make_student(StudentConfig(tokenizer=str(tmp_path / name)), toy_model(), toy_tokenizer, "the-teacher")
