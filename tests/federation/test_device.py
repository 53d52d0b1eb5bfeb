"""What a client's worker answers: its own text, or its share; opened once a run; what server and clients agree on."""

import json
import signal
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
import yaml
from safetensors.torch import load, save
from shared import REPOSITORY
from toy_federation import SWAPPER, TOKENIZER, student_of, toy_recipe

from distill.base.console import Stopped
from distill.base.errors import UserError
from distill.federation import clients, device
from distill.federation.aggregation import Answer
from distill.federation.clients import get_weights
from distill.federation.worker import ToldError
from distill.models.architecture import model_hash
from distill.models.resolvers import load_resolver
from distill.recipe import PrivacyConfig
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist
from distill.training.run import prepare
from distill.training.training_log import Totals

DOCUMENTS = [f"Number {n}: she saw him." for n in range(12)]


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens a toy client whose recipe names a file of text; counts how often models were loaded."""
    loaded = []

    def models(recipe, folder):
        loaded.append(folder)
        student = student_of(recipe)
        given = {"teacher": None, "tokenizer": TOKENIZER, "role_maps": [], "checkpoints": folder}
        return device.Loaded(prepare(recipe, student, **given), SWAPPER, "a teacher")

    def recipe_of(path):
        recipe = toy_recipe(tmp_path, 1, clients=2, rounds=2)
        recipe = replace(recipe, target=replace(recipe.target, reverse_roles=False))
        corpus = replace(recipe.corpus, source="files", files=[path])
        return replace(recipe, corpus=corpus, loss=replace(recipe.loss, kd=0.0, ce=1.0))

    monkeypatch.setattr(device, "load_models", models)
    monkeypatch.setattr(device, "read_recipe", recipe_of)
    return loaded


def request(tmp_path, name, documents, own=True, run=1, client=0):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in documents), encoding="utf-8")
    return {"recipe": str(path), "folder": str(tmp_path / name), "client": client, "own": own, "run": run}


def held(client):
    text = "".join(TOKENIZER.decode(block.input_ids[0]) for block in client.text.blocks[0])
    return [n for n in range(len(DOCUMENTS)) if f"Number {n}:" in text]


def test_a_client_has_all_of_its_own_text_or_its_share_of_what_is_dealt(tmp_path, opened):
    ours, theirs = DOCUMENTS[:5], DOCUMENTS[5:]
    assert held(device.open_client(request(tmp_path, "a", ours, client=1))) == list(range(5))
    assert held(device.open_client(request(tmp_path, "b", theirs, client=0))) == list(range(5, 12))
    dealt = [held(device.open_client(request(tmp_path, "c", DOCUMENTS, False, client=k))) for k in range(2)]
    assert sorted(dealt[0] + dealt[1]) == list(range(12))


def test_a_mistake_that_quotes_the_clients_text_is_not_for_the_server(tmp_path, opened, monkeypatch):
    """See `worker.serve`."""
    recipe_of = device.read_recipe

    def with_mask(path):
        recipe = recipe_of(path)
        return replace(recipe, corpus=replace(recipe.corpus, mask="assistant"))

    monkeypatch.setattr(device, "read_recipe", with_mask)
    with pytest.raises(UserError, match=r"the text begins 'Number 0: she") as raised:
        device.open_client(request(tmp_path, "a", DOCUMENTS))
    assert not isinstance(raised.value, ToldError)


def test_a_clients_own_text_need_hold_no_listed_word_and_is_not_dealt(tmp_path, opened, monkeypatch):
    """As in one process, where others hold some; of what is dealt to all, somebody must."""
    bare = [f"Number {n}: it rained." for n in range(5)]
    with pytest.raises(UserError, match="nothing to swap"):
        device.open_client(request(tmp_path, "a", bare, False))
    parted = replace(toy_recipe(tmp_path).federation.partition, by="label", label="corpus")  # they have no label
    recipe_of = device.read_recipe

    def with_labels(path):
        recipe = recipe_of(path)
        return replace(recipe, federation=replace(recipe.federation, partition=parted, periods=2))

    monkeypatch.setattr(device, "read_recipe", with_labels)
    with pytest.raises(UserError, match=r"partition\.label is corpus"):
        device.open_client(request(tmp_path, "b", bare, False))
    assert device.open_client(request(tmp_path, "c", bare)).text.documents == (3, 2)


def test_it_is_opened_once_a_run_and_an_update_trains_what_was_sent(tmp_path, opened):
    answers = device.Answers()
    who, payload = answers(request(tmp_path, "a", DOCUMENTS), b"")
    assert (who["client"], who["documents"], payload) == (0, [12], b"")
    weights = {name: weight + 0.125 for name, weight in get_weights(student_of(toy_recipe(tmp_path))).items()}
    told, trained = answers({**request(tmp_path, "a", DOCUMENTS), "round": 0}, save(weights))
    again, same = answers({**request(tmp_path, "a", DOCUMENTS), "round": 0}, save(weights))
    assert trained == same
    assert told["facts"]["weight"] == again["facts"]["weight"] > 0
    assert told["facts"]["error"] == ""
    moved = [float((weight - weights[name]).abs().max()) for name, weight in load(trained).items()]
    assert len(moved) == len(weights)
    assert 0 < max(moved) < 0.125
    assert len(opened) == 1
    answers(request(tmp_path, "a", DOCUMENTS[:4], run=2), b"")
    assert len(opened) == 2


def test_an_update_goes_on_from_its_own_checkpoint_and_from_no_others(tmp_path, opened, monkeypatch):
    """The kill is a signal in the first of two steps."""

    def client_of(name, **keys):
        client = device.open_client(request(tmp_path, name, DOCUMENTS))
        recipe, federation = client.recipe, replace(client.recipe.federation, local_steps=2)
        trainer = {**recipe.trainer, "save_steps": 1}
        return replace(client, recipe=replace(recipe, trainer=trainer, federation=federation, **keys))

    def killed(client, sent):
        monkeypatch.setattr(device, "update", partial(clients.update, signals=[signal.SIGTERM]))
        with pytest.raises(Stopped):
            device.updated(client, 0, sent)
        monkeypatch.setattr(device, "update", clients.update)

    begun, fit = [], clients.fit
    monkeypatch.setattr(
        clients, "fit", lambda *given: begun.append(len(list(given[3].glob("checkpoint-*")))) or fit(*given)
    )
    first = get_weights(student_of(toy_recipe(tmp_path)))
    sent, others = save(first), save({name: weight + 0.125 for name, weight in first.items()})
    (tmp_path / "a/checkpoints/student").mkdir(parents=True)  # it may be a run's own folder
    for keys, asked in (({}, others), ({"seed": 9}, sent)):
        client, fresh = client_of("a", **keys), client_of("b", **keys)
        killed(client_of("a"), sent)
        assert device.updated(client, 0, asked)[1] == device.updated(fresh, 0, asked)[1]
    killed(client_of("a"), sent)
    again = device.updated(client_of("a"), 0, sent)[1]
    assert again == device.updated(client_of("b"), 0, sent)[1]
    assert begun == [0, 0, 0] * 2 + [0, 1, 0], "checkpoints that each found"
    killed(client_of("a"), sent)
    device.updated(client_of("a"), 1, sent)
    assert [path.name for path in (tmp_path / "a/checkpoints").iterdir()] == ["student"]


@pytest.mark.parametrize("number", [-1, -2, 2])
def test_a_round_that_there_is_not_is_refused(tmp_path, opened, number):
    client = device.open_client(request(tmp_path, "a", DOCUMENTS))
    with pytest.raises(ToldError, match=rf"asked for round {number + 1}, but federation\.rounds is 2"):
        device.updated(client, number, save(get_weights(student_of(toy_recipe(tmp_path)))))


def test_a_round_that_is_not_finite_has_no_weights(tmp_path, opened):
    weights = {name: weight * torch.nan for name, weight in get_weights(student_of(toy_recipe(tmp_path))).items()}
    told, trained = device.Answers()({**request(tmp_path, "a", DOCUMENTS), "round": 0}, save(weights))
    assert trained == b""
    assert told["facts"]["error"] == device._NOT_FINITE, "an excerpt of the client's text was to stay with it"


@pytest.mark.parametrize("epsilon", [None, 8.0])
def test_a_private_client_tells_neither_losses_nor_tokens(tmp_path, opened, monkeypatch, epsilon):
    """The update is left out here: what counts is what is told of it."""
    weights, totals = get_weights(student_of(toy_recipe(tmp_path))), asdict(Totals(3.0, 2.0, 50, 60, 7))
    answer = Answer(0, weights, 12, 4.0, figures={"loss": 1.5}, totals=totals, privacy={"epsilon": 8.0})
    monkeypatch.setattr(device, "update", lambda *_, **__: answer)
    client = device.open_client(request(tmp_path, "a", DOCUMENTS))
    client = replace(client, recipe=replace(client.recipe, privacy=PrivacyConfig(epsilon=epsilon)))
    told, trained = device.updated(client, 0, save(weights))
    assert told["facts"] == {"weight": 12, "seconds": 4.0, "error": ""} and len(load(trained)) == len(weights)
    if epsilon is None:
        assert (told["figures"], told["totals"]) == ({"loss": 1.5}, totals)
    else:
        assert (told["figures"], told["totals"]) == ({}, {"seconds": 3.0, "processor_seconds": 2.0})
    assert told["privacy"] == {"epsilon": 8.0}


def test_with_noise_that_no_run_repeats_a_round_is_answered_once(tmp_path, opened, monkeypatch):
    """The update is left out here: what counts is whether it is asked for."""
    weights, done = get_weights(student_of(toy_recipe(tmp_path))), []
    answer = Answer(0, weights, 12)
    monkeypatch.setattr(device, "update", lambda *_, number, **__: done.append(number) or answer)
    client = device.open_client(request(tmp_path, "a", DOCUMENTS))
    for secure in (False, True):
        privacy = PrivacyConfig(epsilon=1.0, secure=secure)
        private = replace(client, recipe=replace(client.recipe, privacy=privacy))
        device.updated(private, 0, save(weights))
        device.updated(private, 1, save(weights))
    with pytest.raises(ToldError, match="answered round 2 before"):
        device.updated(private, 1, save(weights))
    assert done == [0, 1, 0, 1]


def differ(ours, theirs):
    """Keys in which a recipe and another, each with what it loaded, do not agree."""
    first, second = device.agreed(*ours), device.agreed(*theirs)
    return [key for key in first if first[key] != second[key]]


def test_server_and_clients_agree_on_all_but_text_and_folders(tmp_path):
    recipe, loaded = toy_recipe(tmp_path, clients=2), device.Loaded(None, SWAPPER, "a teacher")
    for name in device.SHARED:
        assert hasattr(recipe, name)
    elsewhere = replace(recipe, output_dir="elsewhere", corpus=replace(recipe.corpus, files=["mine.txt"]))
    assert not differ((recipe, loaded), (elsewhere, loaded))
    other = replace(recipe, seed=recipe.seed + 1, resolver="teacher", corpus=replace(recipe.corpus, mask="assistant"))
    assert differ((recipe, loaded), (other, loaded)) == ["seed", "resolver", "corpus.mask"]


def test_where_each_client_measures_its_own_text_all_read_windows_alike(tmp_path):
    loaded = device.Loaded(None, SWAPPER, "a teacher")
    for metrics, keys in (([], []), (["perplexity"], ["scores.context", "scores.stride"])):
        recipe = toy_recipe(tmp_path, clients=2, client_metrics=metrics)
        scores = replace(recipe.scores, context=16, stride=4)
        assert differ((recipe, loaded), (replace(recipe, scores=scores), loaded)) == keys
        slower = replace(recipe, scores=replace(recipe.scores, batch_size=1))
        assert not differ((recipe, loaded), (slower, loaded))


def test_a_word_list_and_a_teacher_are_what_is_in_them(tmp_path):
    recipe, loaded = toy_recipe(tmp_path, clients=2), device.Loaded(None, SWAPPER, "a teacher")
    elsewhere = replace(recipe, wordlist="copied.tsv", teacher=replace(recipe.teacher, path="/elsewhere/teacher"))
    assert not differ((recipe, loaded), (elsewhere, loaded))
    others = device.Loaded(None, Swapper(load_wordlist("english_religion")), "another teacher")
    assert differ((recipe, loaded), (recipe, others)) == ["wordlist", "teacher"]


def test_a_students_checkpoint_and_tokenizer_are_what_is_in_them(tmp_path):
    """Frozen weights do not travel, and a tokenizer without a teacher is the student's own."""
    student = student_of(toy_recipe(tmp_path))
    for name in ("one", "copied", "other", "retold"):
        student.save_pretrained(tmp_path / name)
        TOKENIZER.save_pretrained(tmp_path / name)
    with torch.no_grad():
        student.transformer.wte.weight[3, 4] += 0.5
    student.save_pretrained(tmp_path / "other")
    told = json.loads((tmp_path / "retold/tokenizer.json").read_text())
    told["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "retold/tokenizer.json").write_text(json.dumps(told))

    def loaded(name, **keys):
        keys = {"init": "checkpoint", "path": str(tmp_path / name), **keys}
        untaught = {"teacher": {"path": None}, "target": {"op": "none", "reverse_roles": False}}
        loss = {"kd": 0.0, "ce": 1.0, "hidden": 0.0, "listed": 0.0}
        text = {"source": "files", "files": ["text.jsonl"], "max_documents": None}
        untaught |= {"corpus": text, "held_out": text}
        recipe = device.read_recipe(recipe_of(tmp_path, student=keys, **untaught, loss=loss))
        return recipe, device.load_models(recipe, tmp_path / "checkpoints")

    one = loaded("one")
    assert not differ(one, loaded("copied"))
    assert differ(one, loaded("other")) == ["student"]
    assert differ(one, loaded("retold")) == ["student"]
    assert not differ(loaded("one", tokenizer=str(tmp_path / "copied")), loaded("copied"))


def recipe_of(tmp_path, **keys):
    values = {
        "base": str(REPOSITORY / "recipes/debug.yaml"), "federation": {"clients": 2, "rounds": 1},
        "trainer": {"max_steps": -1, "warmup_steps": 0}, **keys,
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


def test_recipes_that_no_machines_can_run_are_refused(tmp_path):
    with pytest.raises(UserError, match="clients is 0"):
        device.read_recipe(str(REPOSITORY / "recipes/debug.yaml"))
    with pytest.raises(UserError, match="audit draws from the text of all clients"):
        device.read_recipe(recipe_of(tmp_path, audit={"members": 5}))


@pytest.mark.parametrize("number", [-1, 2])
def test_a_client_that_there_is_not_is_refused(tmp_path, opened, number):
    with pytest.raises(ToldError, match=rf"client={number}, but federation\.clients is 2: give 0 to 1"):
        device.open_client(request(tmp_path, "a", DOCUMENTS, client=number))


def test_the_recipes_resolver_tells_the_roles_of_pronouns(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(device, "load_resolver", lambda spec, *given: asked.append(spec) or load_resolver("log_linear"))
    loaded = device.load_models(device.read_recipe(recipe_of(tmp_path, resolver="teacher")), tmp_path)
    assert asked == ["teacher"]
    assert loaded.teacher == model_hash(loaded.models.teacher, loaded.models.tokenizer)
