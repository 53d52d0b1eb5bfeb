"""scores.json: its layout, its pairing, its determinism, and what cannot be scored."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from chat_templates import chat_tokenizer
from measuring import rounded
from own_code import with_own_code
from toy_run import DOCUMENTS, SETTINGS

from distill.base.errors import UserError
from distill.cli import main
from distill.models.architecture import weights_hash
from distill.models.loading import load_model, load_tokenizer
from distill.recipe import Recipe, ScoreConfig, TeacherConfig
from distill.reports.findings import cost_of, headline, how_measured, not_measured, told_pairs
from distill.scoring import score as score_module
from distill.scoring.measure import check_metrics, common_context
from distill.scoring.score import score, score_models, score_run
from distill.scoring.scores_file import read_scores, write_scores
from distill.text.conversations import read_messages
from distill.text.prompts import load_prompts


def test_a_model_against_itself(run, toy_model):
    scores = run({"one": toy_model(), "same": toy_model()})
    for metric, entry in scores["differences"]["same - one"].items():
        assert (entry["value"], entry["low"], entry["high"]) == (0, 0, 0), metric
    assert all(sample["texts"]["one"] == sample["texts"]["same"] for sample in scores["samples"])


def test_a_model_against_itself_with_half_its_positions(run, toy_model, tmp_path):
    """What differs is the ruler: with the common context nothing does, in texts longer than either."""
    long = toy_model(n_positions=128)
    half = toy_model()
    weights = long.state_dict()
    weights["transformer.wpe.weight"] = weights["transformer.wpe.weight"][:64]
    half.load_state_dict(weights)
    documents = [" ".join(DOCUMENTS) * 2] * 12
    scores = run({"long": long, "half": half}, documents=documents)
    for metric, entry in scores["differences"]["half - long"].items():
        assert (entry["value"], entry["low"], entry["high"]) == (0, 0, 0), metric
    assert scores["models"]["long"]["perplexity"]["details"]["context"] == 64
    facts = scores["settings"]["models"]
    assert [facts[name]["context"] for name in facts] == [128, 64]
    assert {of_model["read"] for of_model in facts.values()} == {64}
    (held_out,) = (line for line in how_measured(scores) if line.startswith("Held-out"))
    assert "windows of at most 64 tokens; long could read more at once, but all models are asked the same" in held_out
    half.save_pretrained(tmp_path / "half")
    assert common_context([tmp_path / "half", (long, None)]) == 64  # by the folder's configuration alone


def test_models_with_other_tokenizers(toy_model, toy_tokenizer, neutral_tokenizer, short_wordlist):
    models = {"one": (toy_model(), toy_tokenizer), "other": (toy_model(vocab_size=500), neutral_tokenizer)}
    scores = score_models(
        models, wordlist=short_wordlist, documents=DOCUMENTS, prompts=load_prompts()[:40],
        settings=ScoreConfig(**vars(SETTINGS) | {"metrics": [*SETTINGS.metrics, "next_word_lean"]}),
    )  # fmt: skip
    found = scores["differences"]["other - one"]
    of_whole_words = {"agreement_kept", "agreement_log_ratio", "minimal_pairs"}
    assert {metric for metric, entry in found.items() if "instead" not in entry} == {"bits_per_byte", *of_whole_words}
    ours, theirs = (scores["models"][name]["bits_per_byte"]["value"] for name in ("other", "one"))
    assert found["bits_per_byte"]["value"] == pytest.approx(ours - theirs)
    assert re.match(r"No disparity could be compared; .* bits per byte than one\.$", headline(scores))
    write_scores(scores, "/dev/null")


def test_the_same_seed_gives_the_same_file_whatever_the_batch(run, toy_model, tmp_path):
    for name, size in (("a", None), ("b", None), ("c", 1), ("d", 7)):
        settings = ScoreConfig(**vars(SETTINGS) | {"batch_size": size})
        write_scores(run({"teacher": toy_model(), "student": toy_model(seed=1)}, settings=settings), tmp_path / name)
    assert len({(tmp_path / name).read_bytes() for name in "abcd"}) == 1


def test_the_order_of_models_changes_no_score(run, toy_model):
    one, other = toy_model(), toy_model(seed=1)
    assert run({"x": one, "y": other})["models"]["y"] == run({"y": other, "x": one})["models"]["y"]


def test_nothing_to_measure_is_null_in_the_file(run, toy_model, tmp_path):
    scores = run({"a": toy_model(), "b": toy_model(seed=1)}, documents=[" "], prompts=[])
    own = ("agreement_kept", "agreement_log_ratio", "minimal_pairs")  # of sentences that the metric brings
    assert {entry["value"] for name, entry in scores["models"]["a"].items() if name not in own} == {None}
    assert {entry["value"] for name, entry in scores["differences"]["b - a"].items() if name not in own} == {None}
    write_scores(scores, tmp_path / "scores.json")
    assert "NaN" not in (tmp_path / "scores.json").read_text()


def test_a_broken_model_gives_null_not_nan(run, toy_model):
    model = toy_model()
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(torch.nan)
    settings = ScoreConfig(
        metrics=[
            "perplexity",
            "corpus_disparity",
            "next_word_disparity",
            "equivariance_gap",
            "agreement",
            "minimal_pairs",
        ]
    )
    scores = run({"a": model, "b": toy_model()}, settings=settings)
    assert {entry["value"] for entry in scores["models"]["a"].values()} == {None}
    json.dumps(scores, allow_nan=False)


def test_progress_tells_model_and_pass(run, toy_model):
    seen = []
    run({"student": toy_model()}, progress=lambda *a: seen.append(a))
    assert {name for name, *_ in seen} == {"student"}
    assert {"likelihood", "continuations", "next word"} <= {what for _, what, *_ in seen}
    assert all(0 < done <= total for *_, done, total in seen)


@pytest.fixture
def folders(toy_model, toy_tokenizer, tmp_path):
    """Folders of a teacher and a student."""
    for seed, name in enumerate(("teacher", "student")):
        toy_model(seed=seed).save_pretrained(tmp_path / name)
        toy_tokenizer.save_pretrained(tmp_path / name)
    return {name: str(tmp_path / name) for name in ("teacher", "student")}


def test_a_run_is_scored_as_its_recipe_says(folders, short_wordlist, tmp_path, capsys):
    prompts = tmp_path / "mine.tsv"
    lines = [f"g{i % 2}\ts{i}\tThe doctor said that {i}\n" for i in range(6)]
    prompts.write_text("group\tsubject\tprompt\n" + "".join(lines) + "g0\tking\tThe king\n", encoding="utf-8")
    recipe = Recipe(
        seed=4,
        teacher=TeacherConfig(path=folders["teacher"]),
        scores=ScoreConfig(
            metrics=["next_word_disparity", "neutral_rate"],
            prompts=str(prompts),
            max_prompts=4,
            samples=1,
            max_new_tokens=3,
            bootstrap=20,
        ),
    )
    scores = score_run(recipe, folders, short_wordlist, DOCUMENTS, tmp_path / "run")
    assert scores == read_scores(tmp_path / "run" / "scores.json")
    expected = {"count": 4, "groups": 2, "source": str(prompts), "left_out_with_listed_word": 1}
    assert expected.items() <= scores["settings"]["prompts"].items()
    assert scores["models"]["student"]["next_word_disparity"]["n"] == 4
    assert "scoring teacher" in capsys.readouterr().err


def test_the_last_model_is_scored_in_fewer_bits_too(folders, short_wordlist, tmp_path, monkeypatch):
    monkeypatch.setattr("distill.scoring.measure.quantize_weights", rounded)
    monkeypatch.setattr("distill.models.quantization.is_torchao_available", lambda: True)
    settings = {
        "wordlist": short_wordlist,
        "texts": DOCUMENTS,
        "metrics": ["perplexity", "minimal_pairs"],
        "bootstrap": 20,
    }
    plain = score(folders, **settings)
    scores = score(folders, quantize="int4", folder=tmp_path / "scores", **settings)
    assert list(scores["models"]) == ["teacher", "student", "student int4"]
    for name, of_model in plain["models"].items():
        assert scores["models"][name] == of_model
    full, small = (scores["models"][name]["perplexity"]["value"] for name in ("student", "student int4"))
    assert full != small == pytest.approx(full, rel=0.05)
    pairs = ["student - teacher", "student int4 - teacher", "student int4 - student"]
    assert list(scores["differences"]) == pairs == told_pairs(scores)
    assert scores["differences"]["student int4 - student"]["perplexity"]["value"] == pytest.approx(small - full)
    told = headline(scores | {"differences": plain["differences"]})  # of the copy there is a sentence more
    assert told == headline(plain) and headline(scores).startswith(f"{told} In int4: ")
    # A model in memory stays as it is.
    model, tokenizer = load_model(folders["student"]), load_tokenizer(folders["student"])
    in_memory = score({"mine": (model, tokenizer)}, quantize="int4", **settings)
    assert [entry["perplexity"]["value"] for entry in in_memory["models"].values()] == [full, small]
    assert weights_hash(model) == scores["settings"]["weights"]["student"]


def test_fewer_bits_that_cannot_be_made_are_told_before_anything_is_scored(folders, monkeypatch):
    monkeypatch.setattr("distill.models.quantization.is_torchao_available", lambda: False)
    monkeypatch.setattr(score_module, "score_models", None)
    with pytest.raises(UserError, match=r"scores\.quantize: int8 needs the package torchao"):
        score(folders, quantize="int8")
    with pytest.raises(UserError, match=r"scores\.quantize: int4 needs the package torchao"):
        check_metrics(Recipe(scores=ScoreConfig(quantize="int4")))


def test_the_teachers_number_format_is_the_recipes(folders, short_wordlist, tmp_path, monkeypatch):
    seen = {}
    original = score_module.Evaluation

    def spy(model, *rest, **keys):
        seen[len(seen)] = model.dtype
        return original(model, *rest, **keys)

    monkeypatch.setattr(score_module, "Evaluation", spy)
    recipe = Recipe(
        teacher=TeacherConfig(path=folders["teacher"], dtype="bfloat16"),
        scores=ScoreConfig(metrics=["next_word_disparity"], max_prompts=5, bootstrap=5),
    )
    scores = score_run(recipe, folders, short_wordlist, [], tmp_path)
    assert list(seen.values()) == [torch.bfloat16, torch.float32]
    assert np.isfinite(scores["models"]["teacher"]["next_word_disparity"]["value"])


def test_a_run_that_trusts_code_trusts_that_of_reference_and_control(folders, short_wordlist, tmp_path):
    own = str(with_own_code(Path(folders["teacher"]), tmp_path / "trace"))
    for name in ("members", "others"):
        texts = (json.dumps({"text": f"The {name} of {number} said so."}) for number in range(24))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(texts), encoding="utf-8")
    audited = {name: str(tmp_path / f"{name}.jsonl") for name in ("members", "others")}
    settings = ScoreConfig(metrics=["membership_inference"], bootstrap=20, reference=own, control=own, **audited)
    students = {"student": folders["student"]}

    def scored(trusts):
        recipe = Recipe(teacher=TeacherConfig(path=own, trust_remote_code=trusts), scores=settings)
        return score_run(recipe, students, short_wordlist, [], tmp_path / "run")

    with pytest.raises(UserError, match=r"^reference: .*: comes with code of its own"):
        scored(False)
    assert not (tmp_path / "trace").exists()
    assert scored(True)["models"]["student"]["membership_excess_auc"]["value"] is not None


def test_a_teacher_from_a_gguf_file_is_looked_at_there(folders, short_wordlist, tmp_path, monkeypatch):
    """A config.json beside the file may be another model's, whose context all others would be cut to."""
    given = {}
    monkeypatch.setattr(score_module, "score", lambda sources, **_: given.update(sources))
    recipe = Recipe(teacher=TeacherConfig(path=folders["teacher"], gguf_file="model.gguf"))
    score_run(recipe, folders, short_wordlist, [], tmp_path)
    assert given["teacher"].config == recipe.teacher


def test_a_later_model_without_a_chat_template_is_told_before_the_first_is_measured(
    folders, toy_tokenizer, monkeypatch
):
    monkeypatch.setattr(score_module, "Evaluation", lambda *_, **__: pytest.fail("it went on"))
    chat_tokenizer(toy_tokenizer, "chatml").save_pretrained(folders["teacher"])
    with pytest.raises(UserError, match="student: its tokenizer has no chat template to put prompts into"):
        score(folders, chat=True, metrics=["perplexity"])  # its prompts would not fit into 64 tokens


def test_conversations_in_other_chat_templates_are_other_texts(toy_model, toy_tokenizer, short_wordlist, tmp_path):
    """One vocabulary and one context: only what the templates put around the messages differs."""
    tokenizers = {name: chat_tokenizer(toy_tokenizer, name) for name in ("headers", "plain")}
    (size,) = {len(tokenizer) for tokenizer in tokenizers.values()}
    models = {
        "one": (toy_model(seed=1, vocab_size=size), tokenizers["headers"]),
        "two": (toy_model(seed=2, vocab_size=size), tokenizers["headers"]),
        "other": (toy_model(seed=3, vocab_size=size), tokenizers["plain"]),
    }
    metrics = ["perplexity", "bits_per_byte", "equivariance_gap", "corpus_disparity", "minimal_pairs"]
    settings = ScoreConfig(metrics=metrics, bootstrap=20)

    def scores_of(document):
        return score_models(models, wordlist=short_wordlist, documents=[document] * 20, prompts=[], settings=settings)

    messages = [{"role": "user", "content": "The nurse lost her coat."}, {"role": "assistant", "content": "She did."}]
    scores = scores_of(read_messages(messages, "x"))
    same, unlike = (scores["differences"][pair] for pair in ("two - one", "other - one"))
    for metric in metrics[:-1]:
        assert "instead" not in same[metric]
        assert unlike[metric]["instead"].startswith("no difference: the two models' chat templates put other text")
    assert "instead" not in unlike["minimal_pairs"]
    facts = scores["settings"]["models"]
    assert facts["one"]["conversations"] == facts["two"]["conversations"] != facts["other"]["conversations"]
    assert cost_of(scores) == ""
    assert not [line for line in not_measured(scores) if "dialogue" in line]
    write_scores(scores, tmp_path / "scores.json")  # it is what its schema says
    plain = scores_of("The nurse lost her coat.")
    assert "conversations" not in plain["settings"]["models"]["one"]
    assert "instead" not in plain["differences"]["other - one"]["perplexity"]
    assert cost_of(plain) == "perplexity"


def test_what_cannot_be_scored(folders, short_wordlist, tmp_path):
    def attempt(models=folders, **scores):
        score_run(Recipe(scores=ScoreConfig(**scores)), models, short_wordlist, DOCUMENTS, tmp_path)

    with pytest.raises(UserError, match="unknown metric 'perplexty'"):
        attempt(metrics=["perplexty"])
    with pytest.raises(UserError, match="no such file"):
        attempt(prompts="./nowhere.tsv")
    with pytest.raises(UserError, match="no such folder"):
        attempt({"student": "./nowhere"}, metrics=["perplexity"])
    listed = tmp_path / "listed.tsv"
    listed.write_text("group\tsubject\tprompt\ng\tking\tThe king\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"every prompt of '.*listed.tsv' holds a word of the list"):
        attempt(prompts=str(listed))
    assert not (tmp_path / "scores.json").exists()


# -------------------------------------------------------------------------------------------------- from a notebook


QUICK = {"metrics": ["next_word_disparity", "perplexity"], "max_prompts": 4, "bootstrap": 20}


def test_checkpoints_are_scored_as_the_command_scores_them(folders, tmp_path):
    texts = tmp_path / "held-out.txt"
    texts.write_text("The nurse said that she was late. The king saw the queen.", encoding="utf-8")
    arguments = ["score", *folders.values(), "--texts", str(texts), "--max_prompts", "4", "--bootstrap", "20"]
    arguments += ["--metrics", "next_word_disparity,perplexity", "--output_dir", str(tmp_path / "out"), "--seed", "2"]
    assert main(arguments) == 0
    command = read_scores(tmp_path / "out" / "scores.json")
    scores = score_module.score(folders, texts=[texts.read_text(encoding="utf-8")], seed=2, **QUICK)
    assert scores == command
    held_out = texts.read_text(encoding="utf-8")
    assert score_module.score(list(folders.values()), texts=held_out, seed=2, **QUICK) == command


def test_models_and_texts_may_be_objects(toy_model, toy_tokenizer, short_wordlist, tmp_path):
    model = (toy_model(), toy_tokenizer)
    found = score_module.score({"mine": model}, wordlist=short_wordlist, prompts=["The nurse", "The king"], **QUICK)
    assert found["settings"]["wordlist"]["name"] == "short"
    assert found["settings"]["prompts"] | {"sha256": ""} == {
        "count": 1, "groups": 1, "sha256": "", "source": None, "left_out_with_listed_word": 1,
    }  # fmt: skip
    assert found["models"]["mine"]["perplexity"]["value"] is None  # no texts
    assert found["models"]["mine"]["next_word_disparity"]["n"] == 1


def test_a_single_checkpoint_and_a_folder_to_write_into(folders, tmp_path):
    scores = score_module.score(folders["student"], folder=tmp_path / "out", **QUICK)
    assert list(scores["models"]) == ["student"]
    assert read_scores(tmp_path / "out" / "scores.json") == scores
    assert list((tmp_path / "out" / "cache" / "scores").iterdir())


def test_an_unknown_setting_is_named(folders):
    with pytest.raises(UserError, match="unknown setting 'max_promts'; did you mean 'max_prompts'"):
        score_module.score(folders, max_promts=3)


@pytest.mark.parametrize(
    ("checkpoints", "settings", "message"),
    [
        ([], {}, "at least"),
        (("model", "tokenizer", 3), {}, "give models in memory a name"),
        ("demo", {"metrics": "perplexity"}, r"must be a list of names: \['perplexity'\]"),
        ("demo", {"bootstrap": "many"}, "key 'bootstrap'"),
        ("demo", {"texts": ["He.", None]}, r"texts\[1\] is None, but must be a text"),
        ("demo", {"texts": None}, "texts is None, but must be a list of texts"),
        ("demo", {"texts": [5]}, r"texts\[0\] is 5, but must be a text"),
        ("demo", {"sampels": 3}, "did you mean 'samples'"),
        ("demo", {"samples": 0}, "^samples is 0, but must be at least 1 continuation"),
        ("demo", {"max_prompts": -3}, "^max_prompts is -3, but must be at least 1"),
        ("demo", {"seed": -1}, "seed is -1, but must be at least 0"),
        ("demo", {"data": "nowhere"}, "^data: nowhere is no folder"),
    ],
)
def test_what_a_notebook_gets_wrong_is_told_before_a_model_is_loaded(checkpoints, settings, message, monkeypatch):
    monkeypatch.setattr("distill.scoring.score.score_models", lambda *_, **__: pytest.fail("it went on"))
    with pytest.raises(UserError, match=message):
        score(checkpoints, **settings)


def test_what_is_read_beside_prompts_and_texts_is_told_by_its_content(toy_model, toy_tokenizer, tmp_path):
    """The same figures cannot be expected of other benchmark files, audited texts, classifiers or word vectors."""
    (tmp_path / "data" / "blimp").mkdir(parents=True)

    def benchmark(name, bad):
        row = {"sentence_good": "The king saw.", "sentence_bad": bad, "UID": name, "pairID": "0"}
        (tmp_path / "data" / "blimp" / f"{name}.jsonl").write_text(json.dumps(row))

    for name in ("members", "others"):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"text": "A {name} was {i}."}}\n' for i in range(20)))
    audit = {name: str(tmp_path / f"{name}.jsonl") for name in ("members", "others")}
    models = {"toy": (toy_model(seed=1), toy_tokenizer)}

    def told(**settings):
        given = {"bootstrap": 20, "metrics": ["blimp", "minimal_pairs"], "data": str(tmp_path / "data")}
        scores = score(models, folder=tmp_path / "out", **given | settings)
        of_toy = scores["models"]["toy"]
        assert "benchmark_files" not in of_toy["minimal_pairs"]["details"]  # sentences of our own
        return of_toy["blimp"]["details"]["benchmark_files"]["blimp"], scores["settings"].get("measured_with")

    benchmark("a", "The king saws.")
    first = told()
    assert first[1] is None
    assert told() == first  # from the cache
    (tmp_path / "data" / "blimp" / "LICENSE").write_text("is not read")
    assert told() == first
    benchmark("b", "The king saws.")
    assert (two := told()[0]) != first[0]
    benchmark("b", "The king seen.")
    assert told()[0] not in (first[0], two)
    (tmp_path / "data" / "blimp" / "b.jsonl").unlink()
    assert told() == first
    before = told(**audit)
    assert (before[0], list(before[1])) == (first[0], ["audited"])
    (tmp_path / "others.jsonl").write_text('{"text": "Something else."}\n' * 20)
    assert told(**audit)[1]["audited"] != before[1]["audited"]
