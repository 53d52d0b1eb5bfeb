"""A client's text and update: blocks of its own, no trace of who was before it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_toy
from toy_federation import SWAPPER, TOKENIZER, text_of, toy_recipe

from distill.base.errors import UserError
from distill.data.batches import Collator
from distill.data.corpus import Corpus
from distill.federation.clients import _means, client_blocks, client_recipe, get_weights, loss_tokens, set_weights
from distill.objective.chunks import IGNORED
from distill.recipe import PrivacyConfig
from distill.text.conversations import Conversation, Messages


def test_each_client_has_blocks_of_its_own_documents(tmp_path):
    """No document is in the text of two clients or of two periods, and none is lost."""
    documents = [f"Number {n}: she saw him." for n in range(30)]
    recipe = toy_recipe(tmp_path, clients=3, rounds=2, periods=2)
    clients = text_of(recipe, documents)
    found = []
    for text in clients.texts:
        for number, blocks in zip(text.documents, text.blocks, strict=True):
            of_part = "".join(TOKENIZER.decode(block.input_ids[0]) for block in blocks or [])
            held = [n for n in range(30) if f"Number {n}:" in of_part]
            assert len(held) == number
            found += held
    assert sorted(found) == list(range(30))


def test_a_client_without_text_is_counted_as_empty(tmp_path):
    recipe = toy_recipe(tmp_path, clients=5, rounds=1)
    clients = text_of(recipe, ["She saw him.", "Nothing happened.", "He was here."])
    assert sum(clients.documents(0)) == 3
    assert clients.documents(0).count(0) >= 2


def late(answer: str) -> Conversation:
    """A document whose only answer lies behind its first block of 48 tokens."""
    asked = "She asked him what he had seen there, and so did he. " * 20
    messages = Messages(["user", "assistant"], [asked, answer])
    begin = len(asked)
    return Conversation(asked + answer, messages, [0, begin], [(begin, begin + len(answer))])


def test_a_private_client_whose_first_blocks_bear_no_loss_is_counted_as_empty(tmp_path):
    """Its later pieces are blocks, but no unit of privacy."""
    documents = ["She saw him.", late("He was here."), late("She was there.")]
    keys = {"clients": 3, "rounds": 1, "partition": {"alpha": 1e6}}
    recipe = toy_recipe(tmp_path, **keys, privacy=PrivacyConfig(epsilon=8.0, delta=1e-3))
    private, plain = text_of(recipe, documents), text_of(toy_recipe(tmp_path, **keys), documents)
    assert sorted(plain.documents(0)) == [1, 1, 1]
    assert sorted(private.documents(0)) == [0, 0, 1]
    assert len(private.least.first_pieces()) == 1
    with pytest.raises(UserError, match="no document of the text bears loss in its first block"):
        text_of(replace(recipe, output_dir=str(tmp_path / "late")), documents[1:])


def test_nothing_to_swap_in_all_of_the_text_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="nothing to swap"):
        text_of(toy_recipe(tmp_path, clients=2, rounds=1), ["Nothing happened at all."] * 4)


def test_the_text_of_clients_is_told_from_others_by_what_it_was_made_of_and_by_its_content(tmp_path):
    documents = train_toy.toy_documents()[:12]
    recipe = toy_recipe(tmp_path, clients=3, rounds=1)
    first, again = (text_of(recipe, documents).identities for _ in range(2))
    other = text_of(replace(recipe, output_dir=str(tmp_path / "other")), documents[::-1]).identities
    assert first == again and len(set(first)) == 2
    assert first[1] != other[1]


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    corpus = Corpus("toy", lambda: iter(["She saw him."]))
    with pytest.raises(UserError, match="one process"):
        client_blocks(toy_recipe(tmp_path, clients=2), corpus, TOKENIZER, SWAPPER, Path(tmp_path))


def test_tokens_are_those_that_a_step_over_all_text_counts(tmp_path):
    blocks = text_of(toy_recipe(tmp_path), train_toy.toy_documents())
    for augment in (False, True):
        batch = Collator(2, augment)(blocks.__getitems__(range(len(blocks))))
        counted = int((batch["labels"][: int(batch["student_rows"])] != IGNORED).sum())
        assert loss_tokens(blocks, augment) == counted


def test_updates_differ_by_seed_and_the_first_is_the_runs():
    recipe = toy_recipe(Path("run"), 4, {"logging_steps": 20, "save_steps": 100}, clients=3)
    assert client_recipe(recipe, 0, 0).seed == recipe.seed
    assert len({client_recipe(recipe, number, client).seed for number in range(20) for client in range(20)}) == 400
    trainer = client_recipe(recipe, 0, 0).trainer
    assert (trainer["max_steps"], trainer["logging_steps"], trainer["save_strategy"]) == (4, 4, "no")
    saving = toy_recipe(Path("run"), 40, {"save_steps": 10}, clients=3)
    assert "save_strategy" not in client_recipe(saving, 0, 0).trainer


def test_a_tied_head_travels_once():
    from toy_federation import _given

    student = _given(toy_recipe(Path("run")))["student"]
    weights = get_weights(student)
    assert sum("wte" in name or "lm_head" in name for name in weights) == 1
    assert sum(w.numel() for w in weights.values()) == sum(p.numel() for p in student.parameters())
    set_weights(student, {name: torch.full_like(weight, 0.5) for name, weight in weights.items()})
    assert (student.get_output_embeddings().weight == 0.5).all()


def test_a_step_that_was_left_out_does_not_make_the_updates_figures_infinite():
    log = [{"step": 1, "loss": 1.0, "grad_norm": float("inf")}, {"step": 2, "loss": 3.0, "grad_norm": 0.5}]
    assert _means(log) == {"loss": 2.0, "grad_norm": 0.5}
    assert _means([{"loss": float("nan")}]) == {}
