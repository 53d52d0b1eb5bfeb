"""Prompts, what decides a score, and models from wherever they come."""

import json
import os
import shutil

import pytest
import torch
from chat_templates import chat_tokenizer
from huggingface_hub import constants
from own_code import with_own_code
from toy_run import DOCUMENTS
from transformers import BertConfig, BertForSequenceClassification

from distill.base.errors import UserError
from distill.models.architecture import weights_hash
from distill.models.loading import load_frozen
from distill.recipe import FederationConfig, Recipe, ScoreConfig, StudentConfig, TargetConfig, TeacherConfig
from distill.scoring import measure, score_cache
from distill.scoring.examples import example_prompts
from distill.scoring.measure import (
    Checkpoint,
    check_files,
    check_metrics,
    check_models,
    check_room,
    check_run,
    decisive,
    open_model,
    quantized,
    run_prompts,
    source_key,
    trusted,
    usable_prompts,
)
from distill.text.conversations import Messages
from distill.text.counterfactual import Swapper
from distill.text.prompts import Prompt, load_prompts


def test_what_decides_a_score_decides_whether_it_is_measured_anew(run, toy_model, tmp_path):
    def kept(**keys) -> set[str]:
        before = {path.name for path in tmp_path.iterdir()}
        settings = {"metrics": ["perplexity"]} | keys.pop("settings", {})
        run({"model": keys.pop("model", toy_model())}, settings=ScoreConfig(**settings), cache=tmp_path, **keys)
        return {path.name for path in tmp_path.iterdir()} - before

    assert len(kept()) == 1
    assert not kept(settings={"batch_size": 3})
    assert not kept(settings={"probe_steps": 3})
    for change in (
        {"model": toy_model(seed=1)},
        {"documents": DOCUMENTS[:1]},
        {"prompts": load_prompts()[:3]},
        {"settings": {"stride": 3}},
        {"seed": 5},
    ):
        assert len(kept(**change)) == 1, change


def test_a_classifier_counts_by_what_it_is_and_not_by_its_name(tmp_path, monkeypatch, short_wordlist):
    """A folder by its content; a hub id by the commit that transformers loads for it."""

    def key(path) -> str:
        settings = ScoreConfig(regard_model=str(path))
        return json.dumps(decisive(settings, 0, Swapper(short_wordlist), [], []), default=str)

    def save(folder, seed):
        config = BertConfig(
            vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            BertForSequenceClassification(config).save_pretrained(folder)

    judge = tmp_path / "judge"
    save(judge, 0)
    before = key(judge)
    os.utime(judge / "model.safetensors", (1, 1))
    assert key(judge) == before  # copied, or touched
    save(judge, 1)
    assert key(judge) != before

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--someone--judge"
    (repository / "refs").mkdir(parents=True)
    keys = [key("someone/judge")]  # in no cache yet
    for number, commit in enumerate(("a" * 40, "b" * 40)):
        save(repository / "snapshots" / commit, number)
        (repository / "refs" / "main").write_text(commit, encoding="utf-8")
        loaded, there = (
            BertForSequenceClassification.from_pretrained(path).state_dict()
            for path in ("someone/judge", repository / "snapshots" / commit)
        )
        assert all(torch.equal(loaded[name], weight) for name, weight in there.items())
        assert commit in key("someone/judge")
        keys.append(key("someone/judge"))
    assert len(set(keys)) == 3


def test_prompts_with_listed_words_are_left_out_and_counted(short_wordlist):
    swapper = Swapper(short_wordlist)
    found, left_out = usable_prompts(["The doctor said", "The king said", "It was"], None, 0, swapper)
    assert ([prompt.text for prompt in found], left_out) == (["The doctor said", "It was"], 1)
    assert usable_prompts([], None, 0, swapper) == ([], 0)
    assert len(usable_prompts("occupations", 5, 0, swapper)[0]) == 5
    assert run_prompts(Recipe(scores=ScoreConfig(max_prompts=5), seed=3), swapper) == usable_prompts(
        "occupations", 5, 3, swapper
    )
    with pytest.raises(UserError, match="every prompt holds a word of the list 'short'; use others"):
        usable_prompts(["The king"], None, 0, swapper)
    kept, left_out = usable_prompts(["The king", "The book"], None, 0, swapper, listed=True)
    assert ([prompt.text for prompt in kept], left_out) == (["The king", "The book"], 0)
    listed = ScoreConfig(listed_prompts=True, prompts="occupations")
    assert run_prompts(Recipe(scores=listed), swapper) == usable_prompts("occupations", None, 0, swapper, listed=True)


def test_a_model_is_opened_from_wherever_it_is(toy_model, toy_tokenizer, tmp_path):
    model = toy_model()
    model.save_pretrained(tmp_path)
    toy_tokenizer.save_pretrained(tmp_path)
    assert open_model((model, toy_tokenizer), "cpu") == (model, toy_tokenizer)
    assert open_model(lambda: (model, toy_tokenizer), "cpu") == (model, toy_tokenizer)
    loaded, tokenizer = open_model(tmp_path, "cpu")
    assert weights_hash(loaded) == weights_hash(model)
    assert tokenizer.get_vocab() == toy_tokenizer.get_vocab()


def test_what_will_be_sampled_must_fit_into_the_models(toy_tokenizer, short_wordlist):
    """Before they are trained; prompts that are only shown, and the chat template around them, count."""
    swapper = Swapper(short_wordlist)
    prompts = [Prompt("The", "a", "b")]
    shown = max(len(toy_tokenizer(text)["input_ids"]) for text in example_prompts(prompts, swapper, 0))

    def check(limit, tokenizer=toy_tokenizer, **settings):
        settings = ScoreConfig(**{"metrics": ["neutral_rate"], "max_new_tokens": 10} | settings)
        check_room(settings, 0, swapper, prompts, tokenizer, {"the teacher": None, "the student": limit})

    check(1 + shown + 10)
    with pytest.raises(UserError, match=f"exceed the context of the student, {shown + 10} tokens"):
        check(shown + 10)
    check(8, metrics=["perplexity", "next_word_disparity"])  # sample nothing
    check(1 + shown + 5, max_length=1 + shown + 5)
    tokenizer = chat_tokenizer(toy_tokenizer, "chatml")
    check(1 + shown + 10, tokenizer)
    with pytest.raises(UserError, match="the student"):
        check(1 + shown + 10, tokenizer, chat=True)


@pytest.mark.parametrize("metric", ["next_word_disparity", "next_word_lean"])
def test_prompts_that_are_asked_for_the_next_word_must_fit_into_the_models(metric, toy_tokenizer, short_wordlist):
    """Nothing is written behind them, and nothing else is shown: a prompt may fill the context."""
    swapper = Swapper(short_wordlist)
    prompts = [Prompt("The doctor said", "a", "b"), Prompt("The doctor said that the book", "a", "c")]
    length = 1 + len(toy_tokenizer(prompts[1].text)["input_ids"])

    def check(limit, tokenizer=toy_tokenizer, prompts=prompts, **settings):
        asked = ScoreConfig(**{"metrics": ["perplexity", metric]} | settings)
        check_room(asked, 0, swapper, prompts, tokenizer, {"the teacher": None, "the student": limit})

    check(length)
    with pytest.raises(UserError) as told:
        check(length - 1)
    assert str(told.value) == (
        f"the prompt 'The doctor said that the book' ({length} tokens with the start token) is longer than the context "
        f"of the student, {length - 1} tokens; shorten it"
    )
    check(length - 1, metrics=["perplexity"])
    check(1, prompts=[])
    with pytest.raises(UserError, match="the student"):
        check(length, chat_tokenizer(toy_tokenizer, "chatml"), chat=True)


def test_what_watches_a_federation_must_have_room_too(toy_model, toy_tokenizer, short_wordlist, tmp_path):
    (tmp_path / "prompts.txt").write_text("The doctor\n" + "The book said that " * 20 + "\n", encoding="utf-8")
    scores = ScoreConfig(metrics=["perplexity"], prompts=str(tmp_path / "prompts.txt"))

    def check(**federation):
        recipe = Recipe(scores=scores, federation=FederationConfig(**federation))
        check_run(recipe, Swapper(short_wordlist), toy_tokenizer, None, toy_model())

    check()
    check(clients=2, watch=["perplexity"])
    for watch in ("next_word_disparity", "neutral_rate"):
        with pytest.raises(UserError, match=r"the prompt 'The book .* context of the student, 64 tokens"):
            check(clients=2, watch=["perplexity", watch])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"word_vectors": "nowhere.txt"}, r"^scores\.word_vectors: nowhere\.txt is no file"),
        ({"data": "nowhere"}, r"^scores\.data: nowhere is no folder"),
        ({"members": "nowhere.txt"}, "members are given without others"),
        ({"members": "nowhere.txt", "others": "nowhere.txt"}, r"nowhere\.txt"),
        ({"canaries": "nowhere.jsonl"}, r"nowhere\.jsonl"),
        ({"regard_model": "no/such/folder"}, "no/such/folder: no such folder"),
        ({"toxicity_model": "./nowhere"}, r"\./nowhere: no such folder"),
        ({"reference": "./nowhere"}, r"^scores\.reference: \./nowhere: no such folder"),
        ({"control": "no/such/model"}, r"^scores\.control: no/such/model: no such folder"),
    ],
)
def test_files_that_scores_will_read_are_looked_for_before_anything_is_trained(settings, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told):
        check_files(ScoreConfig(**settings), [], "scores.")
    check_files(ScoreConfig(data=str(tmp_path)), [])


def test_what_files_hold_is_looked_at_where_a_metric_reads_it(toy_model, toy_tokenizer, tmp_path):
    toy_model().save_pretrained(tmp_path / "model")
    toy_tokenizer.save_pretrained(tmp_path / "model")
    toy_model().save_pretrained(tmp_path / "bare")
    (tmp_path / "junk.vec").write_bytes(b"\xeb\xad\n")
    model, junk = str(tmp_path / "model"), str(tmp_path / "junk.vec")
    for metric, settings, told in (
        ("regard", {"regard_model": model}, "model: holds no trained classifier"),
        ("toxicity", {"toxicity_model": model}, "model: holds no trained classifier"),
        ("gender_polarity", {"word_vectors": junk}, r"junk\.vec, line 1: neither"),
    ):
        with pytest.raises(UserError, match=told):
            check_files(ScoreConfig(metrics=[metric], **settings), [])
        check_files(ScoreConfig(metrics=["perplexity"], **settings), [])
        check_files(ScoreConfig(metrics=[metric]), [])
    with pytest.raises(UserError, match=r"^reference: .*bare: holds no tokenizer"):
        check_files(ScoreConfig(reference=str(tmp_path / "bare")), [])
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"^control: .*model: holds no weights"):
        check_files(ScoreConfig(control=model), [])
    torch.save({}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"^control: .*model: its weights are a pickle"):
        check_files(ScoreConfig(control=model), [])


def test_models_to_compare_with_are_trusted_as_those_of_the_run(toy_model, toy_tokenizer, tmp_path):
    toy_model().save_pretrained(tmp_path / "own")
    toy_tokenizer.save_pretrained(tmp_path / "own")
    trace = tmp_path / "trace"
    settings = ScoreConfig(control=str(with_own_code(tmp_path / "own", trace)))
    with pytest.raises(UserError, match=r"^scores\.control: .*own: comes with code of its own, which is not run"):
        check_files(settings, [], "scores.")
    assert not trace.exists()
    check_files(settings, [], "scores.", trust_remote_code=True)
    assert trace.exists()


def test_a_run_may_be_compared_with_its_own_models(toy_model, toy_tokenizer, short_wordlist, tmp_path):
    """By their names, or by the folders that they will have: nothing lies there before the training."""

    def check(reference, **keys):
        scores = ScoreConfig(metrics=["perplexity"], reference=reference, quantize="int4")
        recipe = Recipe(output_dir=str(tmp_path / "run"), scores=scores, **keys)
        check_run(recipe, Swapper(short_wordlist), toy_tokenizer, None, toy_model())

    mitigated = {"target": TargetConfig(op="expmean")}
    spelled = [
        str(tmp_path / "run" / "baseline"),
        f"{tmp_path}/other/../run/student/",
        os.path.relpath(tmp_path / "run" / "student"),
    ]
    for name in ("teacher", "student", "baseline", "student int4", *spelled):
        check(name, **mitigated)
    for name, keys in (("baseline", {}), ("teacher", mitigated | {"teacher": TeacherConfig(path=None)})):
        with pytest.raises(UserError, match=rf"^scores\.reference: {name}: "):
            check(name, **keys)
    trusting = {"student": StudentConfig(trust_remote_code=True)}
    toy_model().save_pretrained(tmp_path / "own")
    toy_tokenizer.save_pretrained(tmp_path / "own")
    check(str(with_own_code(tmp_path / "own", tmp_path / "trace")), **trusting)


def test_what_a_later_model_cannot_be_asked_is_told_before_the_first_is_measured(
    toy_model, toy_tokenizer, short_wordlist, tmp_path
):
    swapper, prompts = Swapper(short_wordlist), [Prompt("The doctor said", "a", "b")]
    chat = chat_tokenizer(toy_tokenizer, "chatml")
    for name, tokenizer, positions in (("first", chat, 128), ("bare", toy_tokenizer, 128), ("short", chat, 64)):
        toy_model(n_positions=positions).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)

    def check(*names, **settings):
        asked = ScoreConfig(**{"metrics": ["neutral_rate"], "max_new_tokens": 10, "chat": True} | settings)
        check_models({name: tmp_path / name for name in names}, asked, 0, swapper, documents, prompts)

    documents = ["A text."]
    check("first")
    (tmp_path / "gone").mkdir()
    for file in (tmp_path / "first").glob("*.json"):
        shutil.copy(file, tmp_path / "gone")
    with pytest.raises(UserError, match="gone: holds no weights"):
        check("first", "gone")
    with pytest.raises(UserError, match="bare: its tokenizer has no chat template to put prompts into"):
        check("first", "bare")
    check("first", "bare", chat=False)
    with pytest.raises(UserError, match="context of short, 64 tokens"):
        check("first", "short", max_new_tokens=60)
    check("first", "short", max_new_tokens=60, metrics=["perplexity"])
    documents = [Messages(["user"], ["Who is he?"])]
    with pytest.raises(UserError, match="bare: its tokenizer has no chat template, so it cannot read conversations"):
        check("first", "bare", chat=False)
    unread = {"made": lambda: pytest.fail("it was loaded"), "in memory": (toy_model(), chat)}
    check_models(unread, ScoreConfig(metrics=["neutral_rate"], max_new_tokens=10), 0, swapper, documents, prompts)


def test_prompts_that_repeat_others_are_told_of(short_wordlist, capsys):
    """Ten of one text have no spread, and an interval as if nothing were left to chance; a few stay as they are."""
    swapper = Swapper(short_wordlist)
    assert len(usable_prompts(["The doctor said"] * 10, None, 0, swapper)[0]) == 10
    assert "9 of 10 prompts repeat others" in capsys.readouterr().err
    usable_prompts([f"The {n}th doctor said" for n in range(40)] + ["The 1th doctor said"], None, 0, swapper)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("key", ["scores.metrics", "federation.watch", "federation.client_metrics"])
def test_a_misspelt_metric_is_told_by_the_key_that_names_it(key):
    section, name = key.split(".")
    config = {"scores": ScoreConfig, "federation": FederationConfig}[section]
    check_metrics(Recipe(**{section: config(**{name: ["perplexity"]})}))
    with pytest.raises(UserError, match=f"^{key}: unknown metric 'perplexty'; did you mean 'perplexity'"):
        check_metrics(Recipe(**{section: config(**{name: ["perplexty"]})}))


def test_metrics_of_clients_read_the_documents_of_a_client():
    """Of the prompts, or of the sentences of a benchmark, every client would score alike."""
    of_text = ["bits_per_byte", "corpus_disparity", "equivariance_gap", "perplexity"]
    check_metrics(Recipe(federation=FederationConfig(client_metrics=of_text)))
    for name in ("next_word_disparity", "generation_disparity", "minimal_pairs", "ceat", "memorisation"):
        with pytest.raises(UserError) as told:
            check_metrics(Recipe(federation=FederationConfig(client_metrics=["perplexity", name])))
        assert str(told.value).startswith(f"federation.client_metrics: {name} does not read")
        assert str(told.value).endswith("take bits_per_byte, corpus_disparity, equivariance_gap or perplexity")


@pytest.mark.parametrize("name", ["canary_exposure", "membership_inference", "memorisation"])
def test_a_round_is_not_watched_by_what_needs_an_audit(name):
    check_metrics(Recipe(scores=ScoreConfig(metrics=[name])))
    with pytest.raises(UserError, match=rf"^federation\.watch: {name} needs .* scores\.metrics"):
        check_metrics(Recipe(federation=FederationConfig(watch=["perplexity", name])))


def test_what_a_model_is_known_by_tells_how_it_is_loaded(monkeypatch, tmp_path):
    """Without loading it; of a hub id by the commit of the revision that is asked for."""
    monkeypatch.setattr(measure, "open_model", lambda *_: pytest.fail("it was loaded"))
    monkeypatch.setattr(score_cache, "commit_of", lambda path, revision=None: f"commit of {revision}")
    ways = {"revision": "old", "dtype": "bfloat16", "gguf_file": "a.gguf"}
    configs = [TeacherConfig(path="some/model", **{key: value}) for key, value in ways.items()]
    keys = [source_key(source) for source in ("some/model", *map(Checkpoint, configs))]
    assert len(set(keys)) == 4
    assert "commit of None" in keys[0] and "commit of old" in keys[1]
    assert source_key(Checkpoint(TeacherConfig(path="some/model", shard=True))) == keys[0]
    assert source_key("demo") == source_key(Checkpoint(TeacherConfig())) != source_key(quantized("demo", "int4"))
    (tmp_path / "a.gguf").write_bytes(b"one")
    key = source_key(tmp_path / "a.gguf")
    (tmp_path / "b.gguf").write_bytes(b"two")
    assert source_key(tmp_path / "a.gguf") == key != source_key(tmp_path / "b.gguf")


def test_a_tokenizer_with_more_tokens_than_its_model_is_scored_however_it_is_loaded(tmp_path):
    """An entry that was added and no text holds, [PAD] of a finetuned model."""
    model, tokenizer = open_model("demo", "cpu")
    tokenizer.add_tokens(["[PAD]"])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for source in (tmp_path, trusted(tmp_path)):
        assert len(open_model(source, "cpu")[1]) > open_model(source, "cpu")[0].config.vocab_size
    with pytest.raises(UserError, match="vocabularies differ"):
        load_frozen(TeacherConfig(path=str(tmp_path)))
