"""Evaluations from what a user of evaluate passes, mistakes among it, and of any text."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from architectures import toy
from bundled import GENDER
from chat_templates import TEMPLATES, chat_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from measuring import DOCUMENTS, all_scored, scored
from transformers import GPT2LMHeadModel

from distill.base.errors import UserError
from distill.metrics import METRICS, Evaluation
from distill.metrics import evaluation as base
from distill.metrics.evaluation import evaluation_from
from distill.recipe import ScoreConfig
from distill.scoring.measure import common_context, context_of
from distill.scoring.score import score
from distill.text.conversations import read_messages
from distill.text.prompts import Prompt


def test_evaluate_takes_names_and_paths(toy_model, toy_tokenizer, tmp_path):
    model, asked = toy_model(), ["The nurse said that", "The doctor said that", "The book", "Nothing", "It was"]
    model.save_pretrained(tmp_path / "model")
    toy_tokenizer.save_pretrained(tmp_path / "model")
    module = METRICS["next_word_disparity"].NextWordDisparity(cache_dir=str(tmp_path))
    by_path = module.compute(model=str(tmp_path / "model"), prompts=[*asked, "The king was"], bootstrap=20)
    by_object = module.compute(model=model, tokenizer=toy_tokenizer, prompts=asked, bootstrap=20)
    assert by_path["n"] == 5  # The king is a listed word.
    assert by_path["value"] is not None and by_path["value"] == pytest.approx(by_object["value"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"needs model="),
        ({"model": object()}, r"needs tokenizer="),
        ({"model": "x", "promts": []}, "unknown argument 'promts'; did you mean 'prompts'"),
        ({"model": "./nowhere"}, "nowhere"),
        ({"model": "./nowhere", "bootstrap": "many"}, r"^compute\(\): key 'bootstrap'"),
        ({"model": "./nowhere", "bootstrap": -1}, r"^bootstrap is -1, but must be at least 1"),
        ({"model": "./nowhere", "context": 0}, r"^context is 0, but must be at least 2"),
        ({"model": "./nowhere", "seed": -1}, r"^seed is -1"),
        ({"model": "./nowhere", "quantize": "int8"}, r"^quantize sets a copy .*; ask distill\.score for both$"),
    ],
)
def test_evaluate_mistakes(inputs, message, tmp_path):
    with pytest.raises(UserError, match=message):
        METRICS["perplexity"].Perplexity(cache_dir=str(tmp_path)).compute(**inputs)


def test_evaluate_takes_one_document_or_several_and_says_what_is_none(toy_model, toy_tokenizer, tmp_path):
    """As `score` does: a text is not a list of its letters."""
    module = METRICS["perplexity"].Perplexity(cache_dir=str(tmp_path))

    def found(documents):
        return module.compute(model=toy_model(), tokenizer=toy_tokenizer, documents=documents, bootstrap=20)

    text = " ".join(DOCUMENTS)
    assert found(text) == found([text]) == found(iter([text]))
    for documents, told in (
        (None, r"^documents is None, but must be a list of texts$"),
        (["A text", None], r"^documents\[1\] is None, but must be a text; leave out what is missing$"),
    ):
        with pytest.raises(UserError, match=told):
            found(documents)


@pytest.mark.parametrize("name", ["next_word_disparity", "perplexity", "corpus_disparity", "equivariance_gap"])
@pytest.mark.parametrize("times", [1, 12])
def test_evaluate_gives_what_score_gives(name, times, toy_model, toy_tokenizer, short_wordlist, tmp_path):
    """The prompts that are drawn, the intervals, and the reason in a number's place where too little was seen."""
    prompts = [f"The {who} {did}" for who in ("nurse", "doctor", "book") for did in ("said", "was", "saw", "took")]
    asked = {"prompts": prompts, "wordlist": short_wordlist, "seed": 1, "bootstrap": 50}
    asked["max_prompts"], texts = 7 if times > 1 else 2, DOCUMENTS[:3] * times
    expected = score({"it": (toy_model(), toy_tokenizer)}, texts=texts, metrics=[name], **asked)["models"]["it"][name]
    module = next(one for one in vars(METRICS[name]).values() if hasattr(one, "compute"))(cache_dir=str(tmp_path))
    found = module.compute(model=toy_model(), tokenizer=toy_tokenizer, documents=texts, **asked)
    assert {key: found[key] for key in expected} == expected
    assert (
        (found["value"] is None) == found["details"].get("reason", "").startswith("too little to tell") == (times == 1)
    )


def test_any_text_can_be_measured(toy_model, toy_tokenizer):
    model = toy_model()
    roles = Evaluation(model, toy_tokenizer, GENDER.wordlist, swapper=GENDER).roles

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.text(max_size=40) | st.sampled_from(DOCUMENTS), max_size=4))
    def check(documents):
        evaluation = Evaluation(model, toy_tokenizer, GENDER.wordlist, documents, swapper=GENDER)
        evaluation.roles = roles
        for name in ("perplexity", "bits_per_byte", "corpus_disparity", "equivariance_gap"):
            json.dumps(scored(name, evaluation).to_dict(), allow_nan=False)

    check()


# ------------------------------------------------------------------------------------------------------ instruct models

TALK = [
    {"role": "user", "content": "Who lost her coat?"},
    {"role": "assistant", "content": "The nurse lost her coat, she said."},
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_conversations_and_prompts_reach_the_model_as_its_tokenizer_renders_them(
    toy_model, toy_tokenizer, short_wordlist, template
):
    """No start token comes twice, and the next word is asked for right behind the prompt."""
    tokenizer = chat_tokenizer(toy_tokenizer, template)
    model = toy_model(vocab_size=len(tokenizer), n_positions=300)
    evaluation = Evaluation(
        model, tokenizer, short_wordlist, [read_messages(TALK, "x"), "text"], [Prompt("The nurse said", "a", "b")],
        ScoreConfig(chat=True, samples=1, max_new_tokens=4),
    )  # fmt: skip
    start = [tokenizer.bos_token_id] if template == "plain" else []
    theirs = tokenizer.apply_chat_template(TALK, return_dict=True)["input_ids"]
    ids, offsets = evaluation.encode(evaluation.documents[0])
    assert ids == start + list(theirs)
    assert len(offsets) == len(ids) - 1
    assert evaluation.encode("text")[0][0] == tokenizer.bos_token_id
    assert evaluation.likelihoods[0, 1] == len(ids) - 1

    prompt = [
        {"role": "user", "content": "Continue this text: The nurse said"},
        {"role": "assistant", "content": "The nurse said"},
    ]
    whole = tokenizer.apply_chat_template(prompt, tokenize=False)
    begun = whole[: whole.rindex("The nurse said") + len("The nurse said")]
    given = torch.tensor([start + tokenizer(begun, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        log_probs = model(input_ids=given).logits[0, -1].double().log_softmax(-1)
    masses = [[log_probs[sorted(ids)].logsumexp(0).item() for ids in evaluation.roles.groups]]
    assert evaluation.next_word_masses == pytest.approx(np.array(masses), abs=1e-5)
    (texts,) = evaluation.continuations
    uniforms = np.random.default_rng(0).random((1, 1, 4))[0, 0]
    for number in range(4):  # drawn by hand from the same numbers
        with torch.no_grad():
            cumulative = model(input_ids=given).logits[0, -1].double().softmax(0).cumsum(0)
        token = int(torch.searchsorted(cumulative, torch.tensor(uniforms[number], dtype=torch.double), right=True))
        if token == tokenizer.eos_token_id:
            break
        given = torch.cat([given, torch.tensor([[token]])], 1)
    assert tokenizer.decode(given[0], skip_special_tokens=True).endswith(texts[0])


def test_listed_words_of_a_template_are_no_words_of_the_document(toy_model, toy_tokenizer, short_wordlist):
    tokenizer = chat_tokenizer(toy_tokenizer, "chatml")  # its system prompt says: her and the king
    document = read_messages([{"role": "user", "content": "A man"}], "x")
    evaluation = Evaluation(toy_model(), tokenizer, short_wordlist, [document])
    assert [m.word for m in evaluation.swapper.matches(evaluation.documents[0])] == ["man"]


def _naive(model, tokenizer, window: list[int], counted: int) -> float:
    """-log P of the last so many tokens of a window, from the model's own logits of all of it."""
    with torch.no_grad():
        log_probs = model(torch.tensor([window])).logits[0].double().log_softmax(-1)
    return -sum(log_probs[i - 1, window[i]].item() for i in range(len(window) - counted, len(window)))


@pytest.mark.parametrize("most", [400, 2**10, 2**24])
def test_the_head_by_pieces_is_the_models_own(toy_model, toy_tokenizer, monkeypatch, most):
    """However few logits are held at a time; documents of several windows among them, and a stride of 5."""
    model = toy_model()
    documents = [*DOCUMENTS, " ".join(DOCUMENTS * 6)]
    held = []
    monkeypatch.setattr(base, "MAX_LOGITS", most)
    project = base.project
    monkeypatch.setattr(base, "project", lambda *a: held.append((made := project(*a)).numel()) or made)
    evaluation = Evaluation(model, toy_tokenizer, None, documents, settings=ScoreConfig(stride=5), swapper=object())
    found = evaluation.likelihoods
    for document, row in zip(documents, found, strict=True):
        ids, _ = evaluation.encode(document)
        expected, end = 0.0, min(64, len(ids))
        expected += _naive(model, toy_tokenizer, ids[:end], end - 1)
        while end < len(ids):
            before, end = end, min(end + 5, len(ids))
            expected += _naive(model, toy_tokenizer, ids[end - 64 : end], end - before)
        assert row[0] == pytest.approx(expected, rel=1e-5)
    assert max(held) <= max(most, 8 * 400)  # eight tokens show whether the head may be applied by pieces


def test_a_gpu_reads_more_at_once_and_finds_the_same(toy_model, toy_tokenizer, monkeypatch):
    model = toy_model()
    documents = DOCUMENTS * 40
    sizes, found = {}, {}
    for factor in (1, 16):
        monkeypatch.setattr(base, "pass_factor", lambda device, factor=factor: factor)
        evaluation = Evaluation(model, toy_tokenizer, None, documents, swapper=object())
        sizes[factor] = [len(batch) for batch in evaluation.batches([len(document) for document in documents])]
        found[factor] = evaluation.likelihoods
    assert sizes[1][0] == base.MAX_ROWS < len(documents) == sizes[16][0]
    assert found[16] == pytest.approx(found[1], rel=1e-5)


def test_logits_that_are_not_linear_in_the_states_are_the_models_own(toy_model, toy_tokenizer):
    class Capped(GPT2LMHeadModel):
        def forward(self, *args, **keys):
            out = super().forward(*args, **keys)
            out.logits = 0.05 * torch.tanh(out.logits / 0.05)
            return out

    capped = Capped(toy_model().config).eval()
    capped.load_state_dict(toy_model().state_dict())
    evaluation = Evaluation(capped, toy_tokenizer, None, DOCUMENTS, swapper=object())
    ids, _ = evaluation.encode(DOCUMENTS[0])
    assert evaluation.likelihoods[0, 0] == pytest.approx(_naive(capped, toy_tokenizer, ids, len(ids) - 1), rel=1e-5)


def test_the_context_is_the_least_of_three(toy_model, toy_tokenizer):
    def context(common, setting):
        made = Evaluation(toy_model(), toy_tokenizer, None, settings=ScoreConfig(context=setting), swapper=object())
        return replace(made, common=common).context

    assert [context(None, None), context(32, None), context(None, 16), context(32, 16), context(128, 2048)] == [
        64, 32, 16, 16, 64,
    ]  # fmt: skip


def test_a_text_is_scored_alike_beside_a_long_one_by_which_positions_turn(toy_tokenizer):
    """longrope: from 32 tokens on, here, all rows of a batch are turned otherwise, short ones too."""
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32,
        "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 4.0,
    }  # fmt: skip
    model = toy("phi3", len(toy_tokenizer), rope_parameters=rope, max_position_embeddings=128,
                original_max_position_embeddings=32)  # fmt: skip
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(5)  # so that positions show
    long, short = " ".join(DOCUMENTS)[:600], DOCUMENTS[0][:60]

    def losses(*documents):
        evaluation = evaluation_from(model=model, tokenizer=toy_tokenizer, documents=documents, context=None)
        assert evaluation.context == 32
        assert max(len(evaluation.encode(text)[0]) for text in documents) > 32 or len(documents) == 1
        return evaluation.likelihoods[:, 0]

    assert losses(short, long)[0] == pytest.approx(losses(short)[0], rel=1e-5)
    other = toy("phi3", len(toy_tokenizer), max_position_embeddings=64)
    assert common_context([(model, toy_tokenizer), (other, toy_tokenizer)]) == 32
    assert context_of((model, toy_tokenizer)) == 128  # prompts and what is written behind them have this room


@pytest.mark.parametrize("name", ["next_word_disparity", "next_word_lean"])
def test_a_prompt_longer_than_the_context_gives_no_value_and_leaves_the_others_theirs(
    name, toy_model, toy_tokenizer, short_wordlist
):
    prompts = [Prompt(f"The {word} said that", "a", word) for word in ("nurse", "doctor", "book", "man", "woman")]
    model, full = toy_model(), "The" + " book" * 62
    assert 1 + len(toy_tokenizer(full)["input_ids"]) == model.config.n_positions

    def found(*more):
        asked = [*prompts, *(Prompt(text, "a", "book") for text in more)]
        return all_scored(name, Evaluation(model, toy_tokenizer, short_wordlist, prompts=asked))

    for of, outcome in found(full + " book").items():
        assert (outcome.n, outcome.undetected) == (5, pytest.approx(1 / 6))
        assert outcome.value == found()[of].value
    assert all((outcome.n, outcome.undetected) == (6, 0.0) for outcome in found(full).values())
