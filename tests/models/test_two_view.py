"""The two-view teacher against a naive two-pass computation, the law of role reversal, and `generate`."""

import re

import pytest
import torch
from chat_templates import chat_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.models.generation import generate
from distill.models.loading import load_teacher
from distill.models.two_view import TwoViewTeacher
from distill.objective.logit_ops import RoleMap, teacher_target
from distill.objective.operations import OPERATIONS
from distill.recipe import TargetConfig, TeacherConfig
from distill.text.alignment import align
from distill.text.counterfactual import Swapper
from distill.text.role_map import token_roles
from distill.text.wordlist import load_wordlist

TEXTS = [
    "The nurse said that she was tired, and her father took her coat.",
    "Nothing happened at all.",
    "The king's heroine",
]


@pytest.fixture(scope="module")
def demo():
    """The demo teacher, its tokenizer, the short list's swapper and role maps."""
    model, tokenizer = load_teacher(TeacherConfig())
    swapper = Swapper(load_wordlist("english_gender"))
    roles = token_roles(swapper.wordlist, tokenizer, model.get_output_embeddings().weight.shape[0])
    return model, tokenizer, swapper, [RoleMap(edges, roles.vocab_size) for edges in roles.edges]


def two_view(demo, **target) -> TwoViewTeacher:
    model, tokenizer, swapper, role_maps = demo
    return TwoViewTeacher(model, tokenizer, swapper, TargetConfig(**target), role_maps)


def encoded(tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    return [tokenizer.bos_token_id, *encoding["input_ids"]], encoding["offset_mapping"]


@torch.no_grad()
def naive(demo, text: str, target: TargetConfig) -> torch.Tensor:
    """One position after another, each text read alone."""
    model, tokenizer, swapper, role_maps = demo
    counterfactual = swapper.counterfactuals(text)[0]
    ids, offsets = encoded(tokenizer, text)
    other_ids, other_offsets = encoded(tokenizer, counterfactual.text)
    partner = {0: 0} | {i + 1: j + 1 for i, j in align(offsets, other_offsets, counterfactual.spans).tolist()}
    own = model(input_ids=torch.tensor([ids])).logits[0]
    other = model(input_ids=torch.tensor([other_ids])).logits[0]
    rows = []
    for i in range(len(ids)):
        j = partner.get(i)
        there = torch.tensor([[j is not None]])
        rows.append(
            teacher_target(
                own[i : i + 1],
                other[None, (j or 0) : (j or 0) + 1],
                there,
                target.op,
                target.strength,
                role_maps if target.reverse_roles else None,
            )[0]
        )
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("op", "reverse"), [(op, reverse) for op in OPERATIONS for reverse in (False, True) if op != "none" or not reverse]
)
def test_every_position_as_two_naive_passes_give_it(demo, op, reverse):
    target = TargetConfig(op=op, reverse_roles=reverse, strength=0.7)
    model = two_view(demo, op=op, reverse_roles=reverse, strength=0.7)
    expected = [naive(demo, text, target) for text in TEXTS]
    rows = [encoded(demo[1], text)[0] for text in TEXTS]
    width = max(map(len, rows))
    for side in ("right", "left"):
        padding = [[demo[1].bos_token_id] * (width - len(row)) for row in rows]
        ids = [row + pad if side == "right" else pad + row for row, pad in zip(rows, padding, strict=True)]
        ones = [[1] * len(row) for row in rows]
        zeros = [[0] * len(pad) for pad in padding]
        mask = [one + zero if side == "right" else zero + one for one, zero in zip(ones, zeros, strict=True)]
        logits = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits
        for row, want in enumerate(expected):
            got = logits[row][torch.tensor(mask[row]).bool()]
            torch.testing.assert_close(got, want, atol=2e-4, rtol=2e-4)


def test_text_and_counterfactual_get_predictions_that_mirror_each_other(demo):
    """With one-to-one rows and R, expmean is equivariant: the target for c is R of the target for x."""
    tokenizer, swapper = demo[1], demo[2]
    model = two_view(demo, op="expmean", reverse_roles=True)
    text = "The king said that the woman and the boy"
    edited = swapper.counterfactuals(text)[0]
    assert swapper.counterfactuals(edited.text)[0].text == text
    (ids, offsets), (other_ids, other_offsets) = encoded(tokenizer, text), encoded(tokenizer, edited.text)
    own, other = (model(input_ids=torch.tensor([row])).logits[0] for row in (ids, other_ids))
    pairs = align(offsets, other_offsets, edited.spans) + 1
    assert len(pairs) > 5
    he, she = (tokenizer.convert_tokens_to_ids(f"Ġ{word}") for word in ("he", "she"))
    for i, j in pairs:
        assert own[i, he] == pytest.approx(other[j, she].item(), abs=1e-4)
        assert own[i, she] == pytest.approx(other[j, he].item(), abs=1e-4)


def test_a_neutral_context_expects_both_groups_alike(demo):
    model = two_view(demo, op="expmean", reverse_roles=True)
    ids, _ = encoded(demo[1], "The nurse said that")
    last = model(input_ids=torch.tensor([ids])).logits[0, -1]
    he, she = (demo[1].convert_tokens_to_ids(f"Ġ{word}") for word in ("he", "she"))
    assert last[he] == pytest.approx(last[she].item(), abs=1e-5)
    plain = demo[0](input_ids=torch.tensor([ids])).logits[0, -1]
    assert abs(plain[he] - plain[she]) > 0.3  # the teacher itself does not


@settings(max_examples=25)
@given(st.lists(st.integers(1, 8191), min_size=1, max_size=24))
def test_any_tokens_get_a_distribution(demo, ids):
    """Sampled tokens are not always those that the tokenizer would choose for their text."""
    model = two_view(demo, op="mean", reverse_roles=True)
    logits = model(input_ids=torch.tensor([[demo[1].bos_token_id, *ids]])).logits[0]
    torch.testing.assert_close(logits.logsumexp(-1), torch.zeros(len(logits)), atol=1e-4, rtol=0)


def test_other_tokens_of_the_same_text_keep_their_partners(demo):
    """ "he" as h + e: the boundary behind the word is aligned all the same."""
    tokenizer = demo[1]
    model = two_view(demo, op="swap")
    pieces = [tokenizer.convert_tokens_to_ids(token) for token in ("Ġ", "h", "e")]
    before = encoded(tokenizer, "I know that")[0]
    assert tokenizer.decode([*before[1:], *pieces]) == "I know that he"
    got = model(input_ids=torch.tensor([[*before, *pieces]])).logits[0, -1]
    want = demo[0](input_ids=torch.tensor([encoded(tokenizer, "I know that she")[0]])).logits[0, -1].log_softmax(-1)
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)


def test_generate_draws_from_the_target(demo):
    """With the plain teacher as target, `generate` gives the teacher's own texts, whatever the batch size."""
    prompts = ["The nurse said that", "He was"]
    settings = {"samples": 2, "max_new_tokens": 6, "seed": 3}
    plain = generate(demo[0], demo[1], prompts, **settings)
    for batch_size in (1, 4):
        assert generate(two_view(demo, op="none"), demo[1], prompts, batch_size=batch_size, **settings) == plain
    assert generate(two_view(demo, op="swap"), demo[1], prompts, **settings) != plain


# ------------------------------------------------------------------------------------------------------ instruct models

TALK = [
    {"role": "system", "content": "Answer the king."},
    {"role": "user", "content": "Who lost her coat?"},
    {"role": "assistant", "content": "The nurse lost her coat, she said."},
]
TEMPLATE = "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"


@pytest.mark.parametrize("start", ["<|endoftext|>", "<|turn|>"])  # before the text, or its own first token
def test_within_a_chat_template_the_counterfactual_is_too(toy_model, toy_tokenizer, start):
    """Each position against the teacher on the conversation and on that whose messages are swapped by hand."""
    tokenizer = chat_tokenizer(toy_tokenizer, "chatml")
    tokenizer.chat_template, tokenizer.bos_token = TEMPLATE, start
    teacher = toy_model(vocab_size=len(tokenizer), n_positions=300, initializer_range=0.3)
    swapper = Swapper(load_wordlist("english_gender"))
    model = TwoViewTeacher(teacher, tokenizer, swapper, TargetConfig(op="swap"), [])
    by_hand = {"king": "queen", "her": "his", "she": "he"}
    swapped = [m | {"content": re.sub(r"\w+", lambda word: by_hand.get(word[0], word[0]), m["content"])} for m in TALK]
    assert swapped[1]["content"] == "Who lost his coat?"
    texts = [tokenizer.apply_chat_template(talk, tokenize=False) for talk in (TALK, swapped)]
    given = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    if start != "<|turn|>":
        given = [[tokenizer.bos_token_id, *ids] for ids in given]
    with torch.no_grad():
        got = model(input_ids=torch.tensor([given[0]])).logits[0]
        own, other = (teacher(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1) for ids in given)
    # The last position is behind all edits, and every marker is where the other's is.
    torch.testing.assert_close(got[-1], other[-1], atol=1e-4, rtol=1e-4)
    markers = [[i for i, token in enumerate(ids) if token in tokenizer.all_special_ids] for ids in given]
    assert len(markers[0]) == len(markers[1]) >= 6
    for i, j in zip(*markers, strict=True):
        torch.testing.assert_close(got[i], other[j], atol=1e-4, rtol=1e-4)
    assert (own[-1] - other[-1]).abs().max() > 1e-2
