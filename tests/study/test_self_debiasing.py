"""Self-debiasing against the paper's equation, written out position by position."""

import pytest
import torch

from distill.base.errors import UserError
from distill.models.generation import generate
from distill.models.loading import load_teacher
from distill.recipe import TeacherConfig
from distill.study.self_debiasing import SelfDebiasing

PROMPT = "She was a nurse.\n"
TEXTS = ["The doctor said that he was late, and", "Nothing"]


@pytest.fixture(scope="module")
def demo():
    """The demo teacher and its tokenizer."""
    return load_teacher(TeacherConfig())


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def naive(demo, ids: list[int], prompt: str, decay: float, ends=None) -> torch.Tensor:
    """p'(w | x) of every position, or behind so many tokens, by two readings of what is there so far."""
    model, tokenizer = demo
    rows = []
    for end in range(len(ids) + 1) if ends is None else ends:
        start = [tokenizer.bos_token_id]
        plain, behind = (
            model(input_ids=torch.tensor([before + ids[:end]])).logits[0, -1].softmax(-1)
            for before in (start, start + ids_of(tokenizer, prompt))
        )
        difference = plain - behind
        factor = torch.where(difference >= 0, torch.ones(()), (decay * difference).exp())
        rows.append(plain * factor / (plain * factor).sum())
    return torch.stack(rows).log()


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_position_is_what_the_equation_says(demo, side):
    model = SelfDebiasing(*demo, PROMPT, 40.0)
    start = demo[1].bos_token_id
    rows = [[start, *ids_of(demo[1], text)] for text in TEXTS]
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        fill = [0] * (width - len(row))
        ids.append(row + fill if side == "right" else fill + row)
        mask.append([1] * len(row) + fill if side == "right" else fill + [1] * len(row))
    logits = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits
    for row, text in enumerate(TEXTS):
        got = logits[row][torch.tensor(mask[row]).bool()]
        torch.testing.assert_close(got, naive(demo, ids_of(demo[1], text), PROMPT, 40.0), atol=2e-4, rtol=2e-4)


def test_a_text_without_a_start_token_gets_one_behind_the_prompt_alone(demo):
    """Positions of the text itself are read as they came."""
    ids = ids_of(demo[1], TEXTS[0])
    model = SelfDebiasing(*demo, PROMPT, 0.0)
    with torch.no_grad():
        want = demo[0](input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    torch.testing.assert_close(model(input_ids=torch.tensor([ids])).logits[0], want, atol=1e-4, rtol=1e-4)


def test_a_text_as_long_as_the_context_is_read_behind_the_prompt_in_two_pieces(demo):
    model, tokenizer = demo
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 8192, (127,), generator=generator).tolist()
    wrapped = SelfDebiasing(model, tokenizer, PROMPT, 50.0)
    prompt = [tokenizer.bos_token_id, *ids_of(tokenizer, PROMPT)]
    room = 128 - len(prompt)
    assert wrapped.room == room
    got = wrapped(input_ids=torch.tensor([[tokenizer.bos_token_id, *ids]])).logits[0]
    assert got.shape == (128, 8192)
    fits = naive(demo, ids, PROMPT, 50.0, (0, 1, room - 1, room))
    torch.testing.assert_close(got[[0, 1, room - 1, room]], fits, atol=1e-3, rtol=1e-3)
    with torch.no_grad():
        own = model(input_ids=torch.tensor([[tokenizer.bos_token_id, *ids]])).logits[0, -1].softmax(-1)
        behind = model(input_ids=torch.tensor([[*prompt, *ids[-room:]]])).logits[0, -1].softmax(-1)
    weighed = own * (50 * (own - behind).clamp(max=0)).exp()
    torch.testing.assert_close(got[-1], (weighed / weighed.sum()).log(), atol=1e-3, rtol=1e-3)


def test_what_the_prompt_makes_likelier_becomes_less_likely(demo):
    model, tokenizer = demo
    he, she = (tokenizer.convert_tokens_to_ids(f"Ġ{word}") for word in ("he", "she"))
    ids = torch.tensor([[tokenizer.bos_token_id, *ids_of(tokenizer, "The lawyer said that")]])

    def lean(of) -> float:
        with torch.no_grad():
            last = of(input_ids=ids).logits[0, -1]
        return (last[he] - last[she]).item()

    plain = lean(model)
    assert lean(SelfDebiasing(model, tokenizer, "He is a man, and he says that he is.\n", 50.0)) < plain
    assert lean(SelfDebiasing(model, tokenizer, "She is a woman, and she says that she is.\n", 50.0)) > plain


def test_without_decay_it_writes_what_the_model_writes(demo):
    settings = {"samples": 2, "max_new_tokens": 6, "seed": 3}
    plain = generate(*demo, TEXTS, **settings)
    assert generate(SelfDebiasing(*demo, PROMPT, 0.0), demo[1], TEXTS, **settings) == plain
    assert generate(SelfDebiasing(*demo, PROMPT, 1e4), demo[1], TEXTS, **settings) != plain


def test_a_prompt_that_leaves_no_room_is_refused(demo):
    with pytest.raises(UserError, match="leave too little of the model's context of 128"):
        SelfDebiasing(*demo, "word " * 70, 50.0)
