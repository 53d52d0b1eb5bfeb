"""scores.json: its layout, its pairing, its determinism, and what cannot be scored."""

import json

import jsonschema
import numpy as np
import pytest
import torch

from distill.base.errors import UserError
from distill.base.files import write_json
from distill.metrics import METRICS
from distill.models.architecture import weights_hash
from distill.recipe import Recipe, ScoreConfig, TeacherConfig
from distill.scoring import score as score_module
from distill.scoring.score import score_models, score_run
from distill.scoring.scores_file import read_scores, write_scores
from distill.text.prompts import load_prompts

DOCUMENTS = [
    "The nurse said that she was tired. Nothing happened at all.",
    "   ",
    "A woman took her coat; a man took his coat.",
    "The doctor was late.",
]
SETTINGS = ScoreConfig(samples=2, max_new_tokens=4, bootstrap=100)


@pytest.fixture(scope="module")
def run(short_wordlist, toy_tokenizer):
    """A function from models to their scores on a few prompts and texts."""

    def make(models, **keys):
        keys = {"prompts": load_prompts()[:12], "settings": SETTINGS, "documents": DOCUMENTS} | keys
        models = {name: (model, toy_tokenizer) for name, model in models.items()}
        return score_models(models, wordlist=short_wordlist, **keys)

    return make


def test_layout(run, toy_model, short_wordlist):
    models = {"teacher": toy_model(), "baseline": toy_model(seed=1), "student": toy_model(seed=2)}
    scores = run(models, seed=3)
    assert list(scores["models"]) == list(models)
    for of_model in scores["models"].values():
        assert list(of_model) == SETTINGS.metrics
        for entry in of_model.values():
            assert {"value", "low", "high", "n", "ideal", "direction", "undetected", "details"} == set(entry)
            assert entry["low"] <= entry["value"] <= entry["high"]
            assert entry["n"] > 0
            assert entry["details"]["seed"] == 3
    assert list(scores["differences"]) == ["baseline - teacher", "student - teacher", "student - baseline"]
    for name, outcome in scores["differences"].items():
        later, earlier = (scores["models"][part] for part in name.split(" - "))
        for metric, entry in outcome.items():
            assert entry["value"] == pytest.approx(later[metric]["value"] - earlier[metric]["value"])
            assert entry["low"] <= entry["high"]
            if earlier[metric]["value"]:
                ratio = abs(later[metric]["value"] / earlier[metric]["value"])
                assert entry["ratio"] == pytest.approx(ratio)
    settings = scores["settings"]
    assert settings["seed"] == 3
    assert settings["wordlist"] == {
        "name": short_wordlist.name,
        "groups": ["male", "female"],
        "rows": 4,
        "words": {"male": 4, "female": 4},
        "sha256": short_wordlist.sha256,
    }
    assert settings["prompts"] | {"sha256": ""} == {"count": 12, "groups": 1, "sha256": ""}
    assert settings["held_out"] | {"sha256": ""} == {
        "documents": 3,
        "bytes": sum(len(d) for d in DOCUMENTS if d.strip()),
        "sha256": "",
        "documents_with_listed_word": 2,
        "listed_words": {"male": 2, "female": 3},  # man, his; she, woman, her
    }
    assert settings["weights"] == {name: weights_hash(model) for name, model in models.items()}
    assert settings["decoding"] == {"samples": 2, "max_new_tokens": 4, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    assert {"python", "torch", "transformers", "device"} <= set(scores["versions"])
    assert len(scores["samples"]) == 12
    for sample in scores["samples"]:
        assert list(sample["texts"]) == list(models)
        assert all(len(texts) == 2 for texts in sample["texts"].values())
    json.dumps(scores, allow_nan=False)


def test_a_model_against_itself(run, toy_model):
    scores = run({"one": toy_model(), "same": toy_model()})
    for metric, entry in scores["differences"]["same - one"].items():
        assert (entry["value"], entry["low"], entry["high"]) == (0, 0, 0), metric
    assert all(sample["texts"]["one"] == sample["texts"]["same"] for sample in scores["samples"])


def test_the_same_seed_gives_the_same_file_whatever_the_batch(run, toy_model, tmp_path):
    for name, settings in (("a", SETTINGS), ("b", SETTINGS), ("c", ScoreConfig(**vars(SETTINGS) | {"batch_size": 3}))):
        write_scores(run({"teacher": toy_model(), "student": toy_model(seed=1)}, settings=settings), tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    a, c = json.loads(a), json.loads(c)
    assert a["samples"] == c["samples"]
    assert a["examples"] == c["examples"]
    for model, metrics in a["models"].items():
        for metric, entry in metrics.items():
            other = c["models"][model][metric]
            assert [entry[k] for k in ("value", "low", "high")] == pytest.approx(
                [other[k] for k in ("value", "low", "high")], rel=1e-4
            )


def test_the_order_of_models_changes_no_score(run, toy_model):
    one, other = toy_model(), toy_model(seed=1)
    assert run({"x": one, "y": other})["models"]["y"] == run({"y": other, "x": one})["models"]["y"]


def test_only_what_is_asked_for(run, toy_model):
    scores = run({"student": toy_model()}, settings=ScoreConfig(metrics=["perplexity"], bootstrap=20))
    assert list(scores["models"]["student"]) == ["perplexity"]
    assert scores["differences"] == {}
    assert scores["samples"] == scores["examples"]["prompts"] == []


def test_nothing_to_measure_is_null_in_the_file(run, toy_model, tmp_path):
    scores = run({"a": toy_model(), "b": toy_model(seed=1)}, documents=[" "], prompts=[])
    assert {entry["value"] for entry in scores["models"]["a"].values()} == {None}
    assert {entry["value"] for entry in scores["differences"]["b - a"].values()} == {None}
    write_scores(scores, tmp_path / "scores.json")
    assert "NaN" not in (tmp_path / "scores.json").read_text()


def test_a_broken_model_gives_null_not_nan(run, toy_model):
    model = toy_model()
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(torch.nan)
    settings = ScoreConfig(metrics=["perplexity", "corpus_disparity", "next_word_disparity", "equivariance_gap"])
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
    scores = score_run(recipe, folders, short_wordlist, DOCUMENTS, tmp_path / "run" / "scores.json")
    assert scores == read_scores(tmp_path / "run" / "scores.json")
    expected = {"count": 4, "groups": 2, "source": str(prompts), "left_out_with_listed_word": 1}
    assert expected.items() <= scores["settings"]["prompts"].items()
    assert scores["models"]["student"]["next_word_disparity"]["n"] == 4
    assert "scoring teacher" in capsys.readouterr().err


def test_the_teachers_number_format_is_the_recipes(folders, short_wordlist, tmp_path, monkeypatch):
    seen = {}
    original = score_module.Evaluation

    def spy(model, *rest, **keys):
        seen[len(seen)] = model.dtype
        return original(model, *rest, **keys)

    monkeypatch.setattr(score_module, "Evaluation", spy)
    recipe = Recipe(
        teacher=TeacherConfig(path=folders["teacher"], dtype="bfloat16"),
        scores=ScoreConfig(metrics=["next_word_disparity"], max_prompts=2, bootstrap=5),
    )
    scores = score_run(recipe, folders, short_wordlist, [], tmp_path / "scores.json")
    assert list(seen.values()) == [torch.bfloat16, torch.float32]
    assert np.isfinite(scores["models"]["teacher"]["next_word_disparity"]["value"])


def test_what_cannot_be_scored(folders, short_wordlist, tmp_path):
    def attempt(models=folders, **scores):
        score_run(Recipe(scores=ScoreConfig(**scores)), models, short_wordlist, DOCUMENTS, tmp_path / "scores.json")

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


SCORE = {
    "value": 1.0,
    "low": None,
    "high": 2.0,
    "n": 3,
    "ideal": 0.0,
    "direction": "low",
    "undetected": None,
    "details": {},
}
EMPTY = {
    "format": 1,
    "models": {"m": {}},
    "differences": {},
    "samples": [],
    "settings": {
        "seed": 0,
        "interval": {"confidence": 0.95, "resamples": 5, "method": "bootstrap"},
        "decoding": {"samples": 1, "max_new_tokens": 5, "temperature": 1.0, "top_p": 1.0, "top_k": 0},
        "wordlist": {"name": "list", "groups": ["a", "b"], "sha256": "0f"},
        "prompts": {"count": 0, "groups": 0},
        "held_out": {"documents": 0, "bytes": 0},
    },
    "versions": {},
}


def example(words: dict[str, list]) -> dict:
    """Examples of one prompt; model -> the listed words of its text."""
    shown = {
        name: {"next_word": {"he": 0.5, "she": 0.5}, "text": "he", "words": found} for name, found in words.items()
    }
    decoding = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 5, "seed": 0}
    return {"decoding": decoding, "prompts": [{"prompt": "So", "words": [], "models": shown}]}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores.json"
    write_scores(EMPTY, path)
    with pytest.raises(ValueError):
        write_scores(EMPTY | {"models": {"m": {"s": SCORE | {"details": {"x": float("nan")}}}}}, path)
    with pytest.raises(TypeError):
        write_scores(EMPTY | {"models": {"m": {"s": SCORE | {"details": {"x": object()}}}}}, path)
    with pytest.raises(jsonschema.ValidationError):
        write_scores(EMPTY | {"models": {"m": {"s": {}}}}, path)
    assert read_scores(path) == EMPTY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": {"m": {"s": SCORE | {"low": "0"}}}}, r"models\.m\.s\.low: '0' is not of type 'number', 'null'"),
        ({"models": {"m": {"s": {"value": 1.0}}}}, r"models\.m\.s: '\w+' is a required property"),
        ({"extra": 1}, "the whole file: .*'extra' was unexpected"),
        ({"differences": {"a, b": {}}}, "differences: 'a, b' does not match ' - '"),
        ({"samples": [{"prompt": 1}]}, r"samples\.0"),
        ({"models": {}}, r"models: \{\} "),
        (
            {"models": {"m": {"next_word_disparity": SCORE | {"details": {"groups": ["a", "b"]}}}}},
            r"details: 'mean_signed' is",
        ),
        ({"models": {"m": {"generation_disparity": SCORE | {"details": {"texts": {}}}}}}, r"details: .*fairness_ratio"),
        (
            {"models": {"m": {"fairness_ratio_mean": SCORE | {"details": {"reference": {"value": "0.3"}}}}}},
            r"details\.reference\.value: '0\.3' is not of type",
        ),
        ({"settings": EMPTY["settings"] | {"decoding": {}}}, r"settings\.decoding: .*required"),
        ({"settings": EMPTY["settings"] | {"seed": 1e400}}, "Infinity is no number"),
        ({"examples": example({"other": []})}, r"examples\.prompts\.0: there is no model 'other'"),
        ({"examples": example({"m": [[0, 2, 2]]})}, r"examples\.prompts\.0: a listed word of a group"),
        ({"examples": example({"m": [[0.0, 2, 1]]})}, r"examples\..*words\.0\.0: 0\.0 is not of type 'integer'"),
    ],
)
def test_what_the_schema_does_not_allow_is_named(tmp_path, change, message):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(EMPTY | change), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_scores(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("{", "not valid JSON"), ("[]", "format 1"), ('{"format": 0}', "format 1")],
)
def test_reading_what_is_no_scores_file(tmp_path, content, message):
    path = tmp_path / "scores.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_scores(path)
    assert "scores.json" in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- goes on


def test_a_stopped_evaluation_goes_on_at_its_metric(run, toy_model, tmp_path, monkeypatch):
    models = {"teacher": toy_model(), "student": toy_model(seed=1)}
    expected = run(models)
    measured = []

    def stop_at(metric: str | None):
        def spy(name, measure):
            def counted(evaluation):
                if name == metric:
                    raise KeyboardInterrupt
                measured.append(name)
                return measure(evaluation)

            return counted

        for name in SETTINGS.metrics:
            original = getattr(METRICS[name].measure, "original", METRICS[name].measure)
            counted = spy(name, original)
            counted.original = original
            monkeypatch.setattr(METRICS[name], "measure", counted)

    stop_at(SETTINGS.metrics[2])
    with pytest.raises(KeyboardInterrupt):
        run(models, cache=tmp_path)
    assert measured == SETTINGS.metrics[:2]
    stop_at(None)
    assert run(models, cache=tmp_path) == expected
    assert measured == SETTINGS.metrics + SETTINGS.metrics  # every metric of the two models, and none twice
    assert run(models, cache=tmp_path) == expected  # the sampled texts come from the cache too
    assert len(measured) == 2 * len(SETTINGS.metrics)
    run(models, cache=tmp_path, seed=1)
    assert len(measured) == 4 * len(SETTINGS.metrics)


SAMPLING = ScoreConfig(metrics=["perplexity", "neutral_rate"], samples=1, max_new_tokens=4, bootstrap=5)


def test_a_stop_between_any_two_files_of_the_cache_loses_nothing(run, toy_model, tmp_path, monkeypatch):
    models = {"model": toy_model()}
    expected = run(models, settings=SAMPLING)
    assert expected["samples"] and expected["examples"]["prompts"]
    for stop_at in range(3):
        left = [stop_at]

        def write(path, content, left=left):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            write_json(path, content)

        with monkeypatch.context() as patch:
            patch.setattr("distill.scoring.score_cache.write_json", write)
            with pytest.raises(KeyboardInterrupt):
                run(models, settings=SAMPLING, cache=tmp_path / str(stop_at))
        assert run(models, settings=SAMPLING, cache=tmp_path / str(stop_at)) == expected, stop_at
    assert len(list((tmp_path / "0").iterdir())) == 3  # so that every gap between two files was tried


def test_what_decides_a_score_decides_whether_it_is_measured_anew(run, toy_model, tmp_path):
    def kept(**keys) -> set[str]:
        before = {path.name for path in tmp_path.iterdir()}
        settings = {"metrics": ["perplexity"]} | keys.pop("settings", {})
        run({"model": keys.pop("model", toy_model())}, settings=ScoreConfig(**settings), cache=tmp_path, **keys)
        return {path.name for path in tmp_path.iterdir()} - before

    assert len(kept()) == 1
    assert not kept(settings={"batch_size": 3})
    for change in (
        {"model": toy_model(seed=1)},
        {"documents": DOCUMENTS[:1]},
        {"prompts": load_prompts()[:3]},
        {"settings": {"stride": 3}},
        {"seed": 5},
    ):
        assert len(kept(**change)) == 1, change


def test_a_broken_file_of_the_cache_is_measured_anew(run, toy_model, tmp_path):
    settings = ScoreConfig(metrics=["perplexity"])
    expected = run({"model": toy_model()}, settings=settings, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    for content in ("", "null", "[1]", '{"perplexity": {}}', path.read_text(encoding="utf-8")[:-20]):
        path.write_text(content, encoding="utf-8")
        assert run({"model": toy_model()}, settings=settings, cache=tmp_path) == expected


def test_broken_texts_in_the_cache_are_sampled_anew(run, toy_model, tmp_path):
    expected = run({"model": toy_model()}, settings=SAMPLING, cache=tmp_path)
    (path,) = tmp_path.glob("texts-*")
    path.write_bytes(path.read_bytes()[:-20])
    assert run({"model": toy_model()}, settings=SAMPLING, cache=tmp_path) == expected
    assert run({"model": toy_model()}, settings=SAMPLING, cache=tmp_path) == expected


def test_the_batch_size_leaves_no_trace(run, toy_model, tmp_path):
    models = {"teacher": toy_model(), "student": toy_model(seed=1)}
    files = []
    for size in (1, 7, 64):
        settings = ScoreConfig(**vars(SETTINGS) | {"batch_size": size})
        write_scores(run(models, settings=settings), tmp_path / "scores.json")
        files.append((tmp_path / "scores.json").read_bytes())
    assert files[0] == files[1] == files[2]
