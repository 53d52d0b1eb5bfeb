"""A stopped evaluation goes on, what is damaged is measured again, and whatever decides a score measures it anew."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shared import REPOSITORY
from toy_run import SETTINGS

from distill.base.files import PACKAGE, write_json
from distill.metrics import METRICS
from distill.recipe import ScoreConfig
from distill.scoring import score_cache


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


# -------------------------------------------------------------------------------------------------------------- code


MEASURING = [
    "metrics/log_ratio", "metrics/bootstrap", "metrics/perplexity/perplexity", "metrics/__init__",
    "scoring/measure", "scoring/examples", "models/generation", "models/architecture", "models/two_view",
    "study/self_debiasing", "models/decoding_time",
    "text/counterfactual", "text/roles", "text/prompts", "objective/logit_ops", "recipe", "base/long_input",
]  # fmt: skip


def test_what_measures_is_hashed(copied_code):
    assert {copied_code / f"{module}.py" for module in MEASURING} <= set(score_cache.measuring_code(copied_code))


def test_a_change_of_what_measures_measures_anew(monkeypatch, copied_code):
    hashes = {code_hash_of(copied_code, monkeypatch)}
    for number, name in enumerate(("models/generation", "metrics/__init__", "recipe"), start=2):
        changed = copied_code / f"{name}.py"
        changed.write_text(changed.read_text(encoding="utf-8") + "\n# a remark\n", encoding="utf-8")
        hashes.add(code_hash_of(copied_code, monkeypatch))
        assert len(hashes) == number, name


def test_a_change_of_anything_else_measures_nothing_anew(monkeypatch, copied_code):
    before = code_hash_of(copied_code, monkeypatch)
    others = [path for wing in ("reports", "training", "study", "data") for path in (copied_code / wing).glob("*.py")]
    measuring = ("data/canaries.py", "data/__init__.py", "study/self_debiasing.py", "study/__init__.py")
    others = [path for path in others if path not in [copied_code / name for name in measuring]]
    others += [copied_code / f"{name}.py" for name in ("__init__", "cli", "train", "scoring/scores_file")]
    assert len(others) > 20
    for path in others:
        path.write_text(path.read_text(encoding="utf-8") + "\n# a remark\n", encoding="utf-8")
    (copied_code / "assets" / "report").mkdir(parents=True)
    (copied_code / "assets" / "report" / "page.html").write_text("another word")
    assert code_hash_of(copied_code, monkeypatch) == before


def test_every_module_that_measuring_loads_is_hashed():
    """What Python itself loads is the truth; late imports are hashed too, so there may be more."""
    code = "import json, sys, distill.metrics, distill.scoring.measure\n"
    code += "print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.startswith('distill.') and m.__file__]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    sentences = PACKAGE / "metrics" / "agreement" / "agreement.tsv"
    assert sentences in score_cache.measuring_code()
    loaded = {Path(file) for file in json.loads(done.stdout) if Path(file).read_text(encoding="utf-8")}
    assert len(loaded) > 40
    assert loaded <= set(score_cache.measuring_code())


@pytest.fixture(scope="module")
def copied_code(tmp_path_factory):
    """A copy of the package's code, for tests that add remarks to it."""
    folder = tmp_path_factory.mktemp("code") / "distill"
    for path in PACKAGE.rglob("*.py"):
        copy = folder / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return folder


def code_hash_of(package: Path, monkeypatch) -> str:
    """The hash that outcomes would be kept by if this were the package."""
    original = score_cache.measuring_code
    with monkeypatch.context() as patch:
        patch.setattr(score_cache, "measuring_code", lambda: original(package))
        return score_cache._code_hash.__wrapped__()
