"""Sampling against probabilities that are known."""

from collections import Counter

import numpy as np
import pytest
import torch
from shared import TOY_ARCHITECTURES, TOY_TEXT
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from distill.base.errors import UserError
from distill.models.architecture import end_tokens, model_hash
from distill.models.generation import check_context, generate, sound_settings
from distill.models.loading import load_model, load_tokenizer
from distill.models.student import make_student, train_tokenizer
from distill.recipe import StudentConfig
from distill.text.prompts import load_prompts

SETTINGS = {"samples": 3, "max_new_tokens": 6, "seed": 5}
TEXTS = ["The nurse said that", "A", "The king saw her and the", "The doctor"]


def test_texts_do_not_depend_on_batch_or_order(toy_model, toy_tokenizer):
    model = toy_model()
    texts = generate(model, toy_tokenizer, TEXTS, batch_size=64, **SETTINGS)
    assert [len(samples) for samples in texts] == [3] * 4
    assert len({text for samples in texts for text in samples}) > 6
    for batch_size in (1, 5):
        assert generate(model, toy_tokenizer, TEXTS, batch_size=batch_size, **SETTINGS) == texts
    assert generate(model, toy_tokenizer, TEXTS[:2], batch_size=64, **SETTINGS) == texts[:2]
    assert generate(model, toy_tokenizer, TEXTS, **SETTINGS | {"seed": 6}) != texts


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
def test_nearly_greedy_equals_a_plain_loop(toy_model, toy_tokenizer, architecture):
    """Left padding, the cache and the start token against one forward pass per token, without any of them."""
    model = toy_model(architecture)
    texts = generate(model, toy_tokenizer, TEXTS, samples=1, max_new_tokens=8, top_k=1, batch_size=4)
    for prompt, (text,) in zip(TEXTS, texts, strict=True):
        before = [toy_tokenizer.bos_token_id, *toy_tokenizer(prompt)["input_ids"]]
        ids = list(before)
        for _ in range(8):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == toy_tokenizer.eos_token_id:
                break
        assert text == toy_tokenizer.decode(ids, skip_special_tokens=True).removeprefix(prompt)


class _ConstantHead(torch.nn.Module):
    """Any hidden state -> the same scores."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, hidden):
        return self.scores.expand(*hidden.shape[:-1], -1)


@pytest.fixture
def constant_model(toy_model, toy_tokenizer):
    """A function from {word: probability} to a model that always predicts so."""

    def make(probabilities):
        model = toy_model()
        scores = torch.full((model.config.vocab_size,), -torch.inf)
        for word, probability in probabilities.items():
            (token,) = [toy_tokenizer.eos_token_id] if word is None else toy_tokenizer(word)["input_ids"]
            scores[token] = np.log(probability)
        model.lm_head = _ConstantHead(scores)
        return model

    return make


def test_samples_follow_the_distribution(constant_model, toy_tokenizer):
    model = constant_model({" he": 0.6, " she": 0.3, " book": 0.1})
    texts = generate(model, toy_tokenizer, ["A"] * 25, samples=2, max_new_tokens=60)
    counts = Counter(word for samples in texts for text in samples for word in text.split())
    total = sum(counts.values())
    assert total == 3000
    for word, probability in {"he": 0.6, "she": 0.3, "book": 0.1}.items():
        sigma = (probability * (1 - probability) / total) ** 0.5
        assert abs(counts[word] / total - probability) < 4 * sigma


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"top_k": 2}, {"he": 2 / 3, "she": 1 / 3}),
        ({"top_p": 0.5}, {"he": 1.0}),
        ({"top_p": 0.85}, {"he": 2 / 3, "she": 1 / 3}),
        ({"temperature": 0.5}, {"he": 0.36 / 0.46, "she": 0.09 / 0.46, "book": 0.01 / 0.46}),
        ({"top_k": 2, "top_p": 0.66}, {"he": 1.0}),
    ],
)
def test_truncation_and_temperature(constant_model, toy_tokenizer, settings, expected):
    model = constant_model({" he": 0.6, " she": 0.3, " book": 0.1})
    texts = generate(model, toy_tokenizer, ["A"] * 20, samples=2, max_new_tokens=50, **settings)
    counts = Counter(word for samples in texts for text in samples for word in text.split())
    assert set(counts) == set(expected)
    for word, probability in expected.items():
        assert counts[word] / 2000 == pytest.approx(probability, abs=0.05)


def test_the_end_token_ends_a_text(constant_model, toy_tokenizer):
    model = constant_model({" he": 0.5, None: 0.5})
    texts = generate(model, toy_tokenizer, ["A"] * 200, samples=1, max_new_tokens=10)
    lengths = Counter(len(text.split()) for (text,) in texts)
    assert set("".join(text for (text,) in texts).split("he")) <= {"", " "}
    assert 70 < lengths[0] < 130
    assert 25 < lengths[1] < 75


def test_a_checkpoints_own_decoding_plays_no_part(toy_model, toy_tokenizer):
    model = toy_model()
    plain = generate(model, toy_tokenizer, TEXTS, **SETTINGS)
    own = model.generation_config
    own.repetition_penalty, own.suppress_tokens, own.max_length = 5.0, list(range(5, 300)), 3
    model.train()
    assert generate(model, toy_tokenizer, TEXTS, **SETTINGS) == plain
    assert model.generation_config is own
    assert model.training


def test_random_state_is_left_alone(toy_model, toy_tokenizer):
    model = toy_model()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    generate(model, toy_tokenizer, TEXTS, **SETTINGS)
    assert torch.equal(torch.rand(1), expected)


def test_progress_and_nothing_to_do(toy_model, toy_tokenizer):
    seen = []
    generate(toy_model(), toy_tokenizer, TEXTS, batch_size=5, progress=lambda *a: seen.append(a), **SETTINGS)
    assert seen == [(5, 12), (10, 12), (12, 12)]
    assert generate(toy_model(), toy_tokenizer, [], **SETTINGS) == []


def test_the_context_of_a_model_with_images_is_that_of_its_text(toy_tokenizer):
    """Its configuration holds those of its parts, and no positions itself."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = {"vocab_size": len(toy_tokenizer), "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
    special = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    config = AutoConfig.for_model(
        "gemma3", text_config={**sizes, **text, **special}, vision_config={**sizes, "image_size": 28, "patch_size": 14}
    )
    assert not hasattr(config, "max_position_embeddings")
    model = AutoModelForCausalLM.from_config(config).eval()
    assert len(generate(model, toy_tokenizer, TEXTS, samples=1, max_new_tokens=4)) == len(TEXTS)
    with pytest.raises(UserError, match="context of 64 tokens; lower max_new_tokens"):
        generate(model, toy_tokenizer, TEXTS, samples=1, max_new_tokens=60)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_a_length_with_the_prompt_cuts_what_would_be_written_without_it(constant_model, toy_tokenizer, batch_size):
    """A model that says one of two words at every step, of one token each, and never ends."""
    model = constant_model({" he": 0.6, " she": 0.4})
    prompts = ["The", "The nurse said that", "The king and the queen saw him and"]
    settings = {"samples": 2, "max_new_tokens": 12, "batch_size": batch_size}
    whole = generate(model, toy_tokenizer, prompts, **settings)
    cut = generate(model, toy_tokenizer, prompts, **settings, max_length=14)
    lengths = [1 + len(toy_tokenizer(prompt)["input_ids"]) for prompt in prompts]
    assert lengths == [2, 5, 9]
    for length, longer, shorter in zip(lengths, whole, cut, strict=True):
        for text, kept in zip(longer, shorter, strict=True):
            assert len(text.split()) == 12
            assert kept.split() == text.split()[: 14 - length]
    assert len({text for texts in whole for text in texts}) == 6
    with pytest.raises(
        UserError, match=r"'The king and .* \(9 tokens with the start token\) leaves nothing of max_length 9"
    ):
        generate(model, toy_tokenizer, prompts, **settings, max_length=9)


def test_what_cannot_be_generated(toy_model, toy_tokenizer):
    with pytest.raises(UserError, match="context of 64 tokens; lower max_new_tokens"):
        generate(toy_model(), toy_tokenizer, TEXTS, samples=1, max_new_tokens=60)
    check_context(64, toy_tokenizer, ["He said"], 64 - 1 - len(toy_tokenizer("He said")["input_ids"]))
    check_context(None, toy_tokenizer, ["He said"], 1000)
    check_context(64, toy_tokenizer, ["He said"], 1000, max_length=64)
    with pytest.raises(UserError, match="lower max_new_tokens"):
        check_context(64, toy_tokenizer, ["He said"], 1000, max_length=65)
    with pytest.raises(UserError, match="leaves nothing of max_length 2; raise it"):
        check_context(None, toy_tokenizer, ["He said"], 1000, max_length=2)
    with pytest.raises(UserError, match="exceed the context of the student, 64 tokens"):
        check_context(64, toy_tokenizer, ["He said"], 64 - len(toy_tokenizer("He said")["input_ids"]), "the student")
    with pytest.raises(UserError, match="leaves no room in the model's context of 64 tokens; shorten it"):
        generate(toy_model(), toy_tokenizer, ["he " * 80], samples=1, max_new_tokens=1)
    for setting, told in (("temperature", "above 0"), ("top_k", "at least 0, not -1"), ("seed", "at least 0")):
        with pytest.raises(UserError, match=f"{setting} must be {told}"):
            generate(toy_model(), toy_tokenizer, TEXTS, samples=1, max_new_tokens=6, **{setting: -1})


@pytest.mark.slow
@pytest.mark.parametrize("decoding", [{}, {"top_p": 0.9}, {"top_k": 40, "temperature": 0.7}], ids=str)
def test_the_batch_size_changes_no_text_of_the_demo_teacher(shared_data, decoding):
    """Rounding alone would change a text in a hundred of these."""
    model, tokenizer = load_model("demo"), load_tokenizer("demo")
    prompts = [prompt.text for prompt in load_prompts(shared_data("bold", "prompts"))[:1000]]
    texts = [
        generate(model, tokenizer, prompts, samples=1, max_new_tokens=40, batch_size=size, seed=1, **decoding)
        for size in (64, 250, 10)
    ]
    assert texts[0] == texts[1] == texts[2]


def test_a_tokenizer_without_a_pad_token_makes_no_noise(toy_model, toy_tokenizer, capsys, recwarn):
    assert toy_tokenizer.pad_token_id is None
    generate(toy_model(), toy_tokenizer, ["The nurse", "A much longer prompt"], samples=2, max_new_tokens=4)
    assert "pad" not in capsys.readouterr().err and not [w for w in recwarn if "pad" in str(w.message)]


# ------------------------------------------------------------------------------------------------------- end tokens


TURN = 342  # behind all entries of the toy tokenizer


@pytest.fixture
def instruct():
    """A model whose turns end with a token of their own, TURN, and its tokenizer."""
    tokenizer = train_tokenizer([TOY_TEXT] * 4, 400)
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True)])
    config = {"model_type": "gpt2", **TOY_ARCHITECTURES["gpt2"]}
    model = make_student(StudentConfig(init="config", config=config), None, tokenizer, None).eval()
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, TURN]
    return model, tokenizer


def test_a_text_ends_at_any_end_token(instruct):
    """A coin that says " he" three times in four: a quarter of the texts is empty, and three sixteenths have one."""
    model, tokenizer = instruct
    scores = torch.full((TURN + 1,), -torch.inf)
    (he,) = tokenizer(" he")["input_ids"]
    scores[he], scores[TURN] = np.log(0.75), np.log(0.25)
    model.lm_head = _ConstantHead(scores)
    asked = {"samples": 10, "max_new_tokens": 40, "seed": 0}
    lengths = Counter(len(text.split()) for texts in generate(model, tokenizer, TEXTS * 10, **asked) for text in texts)
    for words in range(3):
        assert lengths[words] / 400 == pytest.approx(0.25 * 0.75**words, abs=0.06)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    short = [text for texts in generate(model, tokenizer, TEXTS, **asked) for text in texts if len(text.split()) < 20]
    assert not short  # the other token is then one like any other, without text


def test_end_tokens_are_the_tokenizers_and_the_models_special_ones(instruct, toy_model, toy_tokenizer):
    model, tokenizer = instruct
    end = tokenizer.eos_token_id
    assert end_tokens(model, tokenizer) == [end, TURN]
    for own, want in ((TURN, [end, TURN]), ([TURN, end], [end, TURN]), (None, [end]), ([7, TURN, 9999], [end, TURN])):
        model.generation_config.eos_token_id = own
        assert end_tokens(model, tokenizer) == want
    plain = toy_model()
    before = model_hash(plain, toy_tokenizer)
    plain.generation_config.eos_token_id = 7  # a word of the tokenizer
    assert end_tokens(plain, toy_tokenizer) == [toy_tokenizer.eos_token_id]
    assert model_hash(plain, toy_tokenizer) == before


def test_what_ends_a_text_is_part_of_who_wrote_it(instruct):
    model, tokenizer = instruct
    both = model_hash(model, tokenizer)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    assert model_hash(model, tokenizer) != both


@pytest.mark.parametrize(
    ("given", "left_out"),
    [
        ({}, []),
        ({"temperature": 0.6, "top_p": 0.9}, ["temperature", "top_p"]),
        ({"temperature": 0.6, "top_p": 0.9, "do_sample": True, "repetition_penalty": 1.1}, []),
        ({"length_penalty": 2.0, "num_beams": 4, "early_stopping": True}, []),
        ({"length_penalty": 2.0, "early_stopping": True}, ["early_stopping", "length_penalty"]),
        ({"max_new_tokens": 0}, ["max_new_tokens"]),
        ({"num_return_sequences": 3}, ["num_return_sequences"]),
    ],
)
def test_settings_that_cannot_be_saved_are_left_out_and_the_others_kept(tmp_path, given, left_out):
    """transformers itself is the judge: it saves what is kept, and reads it back."""
    settings = GenerationConfig(eos_token_id=[1, 2])
    for name, value in given.items():
        setattr(settings, name, value)
    sound, names = sound_settings(settings)
    assert sorted(names) == left_out
    if left_out:
        with pytest.raises(ValueError):
            settings.save_pretrained(tmp_path)
    sound.save_pretrained(tmp_path)
    again = GenerationConfig.from_pretrained(tmp_path)
    for name, value in {"eos_token_id": [1, 2], **given}.items():
        assert name in left_out or getattr(again, name) == value
