"""An exported page: the folder's contents, which need no gradio, and that a bare environment runs it as it is."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import venv
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch
import yaml
from toy_adapter import saved_adapter

from distill.base.errors import UserError
from distill.demo import export as module
from distill.demo.export import export, readme, requirements
from distill.demo.loaded import load
from distill.demo.sources import read_file, read_shown
from distill.recipe import read_resolved, write_recipe
from distill.recipe_check import recipe_of
from distill.text.wordlist import bundled_wordlists


@pytest.fixture
def with_gradio(monkeypatch):
    """As if gradio were installed, where it is not."""
    plain = metadata.version

    def version(name):
        try:
            return plain(name)
        except metadata.PackageNotFoundError:
            if name != "gradio":
                raise
            return "6.31.0"

    monkeypatch.setattr(module, "require_gradio", lambda: None)
    monkeypatch.setattr(module.metadata, "version", version)


@pytest.fixture
def exported(toy_run_folder, tmp_path, with_gradio):
    export(read_shown([str(toy_run_folder)]), tmp_path / "space")
    return tmp_path / "space"


def head_of(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_folder_holds_what_a_space_needs(exported):
    names = {path.name for path in exported.iterdir()}
    assert names >= {"app.py", "README.md", "requirements.txt", "shown.json", "distill", "models", ".gitattributes"}
    head = head_of((exported / "README.md").read_text(encoding="utf-8"))
    assert (head["sdk"], head["app_file"]) == ("gradio", "app.py")
    assert head["sdk_version"] == module.metadata.version("gradio")
    assert head["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert len(head["short_description"]) <= 60
    assert {"title", "emoji", "colorFrom", "colorTo", "pinned"} <= head.keys()


def test_every_requirement_is_pinned_to_what_runs_here(exported):
    lines = (exported / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("--")]
    assert all(re.fullmatch(r"[\w.-]+(\[[\w,]+\])?==\d[\w.]*", line) for line in pins)
    names = {re.split(r"[\[=]", line)[0] for line in pins}
    assert {"gradio", "torch", "transformers", "ahocorasick-rs", "jinja2"} <= names
    for line in pins:
        name, _, version = re.sub(r"\[.*\]", "", line).partition("==")
        assert module.metadata.version(name).partition("+")[0] == version


def test_it_holds_no_path_of_this_machine(exported, toy_run_folder):
    for name in ("app.py", "README.md", "requirements.txt", "shown.json"):
        assert str(toy_run_folder.parent) not in (exported / name).read_text(encoding="utf-8")
    paths = [source["model"]["path"] for source in json.loads((exported / "shown.json").read_text())["sources"]]
    assert paths == ["models/teacher", "models/baseline", "models/student"]
    assert not list(exported.rglob("__pycache__"))


def test_the_models_and_lists_in_it_are_those_of_the_run(exported, toy_run_folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    moved = shutil.move(exported, tmp_path / "elsewhere")
    there = load(read_file(Path(moved) / "shown.json"))
    here = load(read_shown([str(toy_run_folder)]))
    assert there.swapper.wordlist.sha256 == here.swapper.wordlist.sha256
    for one, other in zip(there.models, here.models, strict=True):
        assert str(tmp_path / "elsewhere") in one.source.model.path
        assert (one.log_probabilities("The man") == other.log_probabilities("The man")).all()
    assert Path(there.shown.reports["run"]).read_bytes() == (toy_run_folder / "report.html").read_bytes()


def test_hub_ids_and_the_demo_teacher_stay_names(tmp_path, with_gradio):
    shown = read_shown(["demo", "some/model"])
    export(shown, tmp_path / "space")
    assert not (tmp_path / "space/models").exists()
    assert read_file(tmp_path / "space/shown.json") == shown
    assert head_of((tmp_path / "space/README.md").read_text(encoding="utf-8"))["models"] == ["some/model"]


def test_a_folder_called_demo_is_not_the_demo_teacher(toy_run_folder, tmp_path, monkeypatch, with_gradio):
    """As after `--export demo`: the name goes before what lies there."""
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    (Path("demo") / "private.txt").write_text("mine")
    shown = read_shown(["demo", str(toy_run_folder)])
    export(shown, tmp_path / "space")
    assert not list((tmp_path / "space").rglob("private.txt"))
    assert json.loads((tmp_path / "space/shown.json").read_text())["sources"][0]["model"]["path"] == "demo"


def test_a_model_that_is_nowhere_is_told_and_nothing_written(tmp_path, with_gradio):
    with pytest.raises(UserError, match=r"outputs/quikstart/student: no such folder"):
        export(read_shown(["outputs/quikstart/student"]), tmp_path / "space")
    assert not (tmp_path / "space").exists()


@pytest.mark.parametrize(
    ("resolver", "want"),
    [
        ("log_linear", "log_linear"), ("teacher", "teacher"),
        ("teacher:some/model", "teacher:some/model"), ("teacher:{here}", "log_linear"),
        ("spacy", "log_linear"), ("spacy:de_core_news_sm", "log_linear"),
    ],
)  # fmt: skip
def test_a_resolver_of_this_machine_stays_here(tmp_path, with_gradio, capsys, resolver, want):
    resolver = resolver.format(here=tmp_path)
    export(replace(read_shown(["demo"]), resolver=resolver), tmp_path / "space")
    assert json.loads((tmp_path / "space/shown.json").read_text())["resolver"] == want
    assert (resolver in capsys.readouterr().err) == (resolver != want)


def test_a_bundled_list_goes_by_its_path_too_and_none_leaves_companions_out(tmp_path, with_gradio):
    from distill.text.wordlist import load_wordlist

    (tmp_path / "mine.tsv").write_text("# with: gone.tsv\nmale\tfemale\nhe\tshe\n", encoding="utf-8")
    for spec in (str(bundled_wordlists()["english_religion"]), f"{tmp_path / 'mine.tsv'}+none"):
        export(replace(read_shown(["demo"]), wordlist=spec), tmp_path / "space")
        moved = read_file(tmp_path / "space/shown.json").wordlist
        assert moved != spec and load_wordlist(moved).sha256 == load_wordlist(spec).sha256


def test_a_package_that_the_page_needs_and_is_not_here_is_named(with_gradio):
    with pytest.raises(UserError, match="the page needs no-such-package, which is not installed here"):
        module._pinned("no-such-package>=1")


def test_an_adapter_of_the_hub_needs_its_package(with_gradio, monkeypatch):
    monkeypatch.setattr(module, "adapter_folder", lambda path: Path("cache") if path == "some/lora" else None)
    names = [line.partition("==")[0] for line in requirements(read_shown(["demo", "some/lora"]))]
    assert "peft" in names
    assert "peft" not in [line.partition("==")[0] for line in requirements(read_shown(["demo", "some/model"]))]


def test_titles_keep_their_letters_and_no_more_of_a_path_than_tells_runs_apart(toy_run_folder, tmp_path, with_gradio):
    assert "\nSome/Model-135M, side by side" in readme(read_shown(["some/Model-135M"]))
    for name in ("a", "b"):
        shutil.copytree(toy_run_folder, tmp_path / name / "run")
    for folder in ("run", "run/student"):
        shown = read_shown([str(tmp_path / name / folder) for name in ("a", "b")])
        assert str(tmp_path) not in "".join(source.title for source in shown.sources)
    assert [source.title for source in shown.sources] == ["a/run/student", "b/run/student"]


def test_an_adapter_is_merged_into_its_base_which_stays_behind(tmp_path, toy_model, toy_tokenizer, with_gradio):
    pytest.importorskip("peft", reason="needs the extra lora")
    adapter = saved_adapter(toy_model(), toy_tokenizer, tmp_path)
    here = load(read_shown([str(adapter)]))
    export(here.shown, tmp_path / "space")
    for folder in (adapter, tmp_path / "base"):
        shutil.rmtree(folder)
    names = {path.name for path in (tmp_path / "space/models/adapter").iterdir()}
    assert "model.safetensors" in names and not any(name.startswith("adapter") for name in names)
    there = load(read_file(tmp_path / "space/shown.json"))
    for prompt in ("The man", "A nurse said that"):
        want, got = (page.models[0].log_probabilities(prompt) for page in (here, there))
        assert torch.allclose(want, got, atol=1e-5) and not torch.allclose(want, want.mean(), atol=0.1)


def test_lists_bring_their_companions_and_prompts_go_along(toy_run_folder, tmp_path, with_gradio):
    (tmp_path / "mine.tsv").write_text("#\tWith: phrases.tsv\nmale\tfemale\nhe\tshe\n", encoding="utf-8")
    (tmp_path / "phrases.tsv").write_text("# with: more.tsv\nprotected\nhe man\n", encoding="utf-8")
    (tmp_path / "more.tsv").write_text("protected\nshe devil\n", encoding="utf-8")
    (tmp_path / "prompts.tsv").write_text("group\tsubject\tprompt\ncare\tnurse\tThe nurse said\n", encoding="utf-8")
    run = tmp_path / "run"
    shutil.copytree(toy_run_folder, run)
    values = read_resolved(run / "recipe.yaml")
    values["wordlist"] = f"{tmp_path / 'mine.tsv'}+english_protected"
    values["scores"]["prompts"] = str(tmp_path / "prompts.tsv")
    values["corpus"]["max_documents"] = values["held_out"]["max_documents"] = 1
    write_recipe(recipe_of(values, "recipe"), run / "recipe.yaml")
    shown = read_shown([str(run)])
    export(shown, tmp_path / "space")
    moved = read_file(tmp_path / "space/shown.json")
    assert moved.prompts == str(tmp_path / "space/prompts.json")
    assert module.load_prompts(moved.prompts) == module.load_prompts(tmp_path / "prompts.tsv")
    from distill.text.wordlist import load_wordlist

    assert load_wordlist(moved.wordlist).sha256 == load_wordlist(shown.wordlist).sha256
    assert {"he man", "she devil"} <= set(load_wordlist(moved.wordlist).protected)


def test_lists_of_one_name_and_a_model_in_gguf_go_along(toy_run_folder, tmp_path, with_gradio):
    for name, row in (("people", "he\tshe"), ("kin", "uncle\taunt")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "words.tsv").write_text(f"male\tfemale\n{row}\n", encoding="utf-8")
    (tmp_path / "model.gguf").write_bytes(b"GGUF, read by nobody here")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")  # which goes before the file's own
    from distill.text.wordlist import load_wordlist

    shown = read_shown(["demo"])
    model = replace(shown.sources[0].model, path=str(tmp_path / "model.gguf"))
    shown = replace(
        shown,
        sources=(replace(shown.sources[0], model=model),),
        wordlist=f"{tmp_path / 'people/words.tsv'}+{tmp_path / 'kin/words.tsv'}",
    )
    export(shown, tmp_path / "space")
    moved = json.loads((tmp_path / "space/shown.json").read_text(encoding="utf-8"))
    path = moved["sources"][0]["model"]["path"]
    assert (tmp_path / "space" / path).read_bytes() == (tmp_path / "model.gguf").read_bytes()
    assert (tmp_path / "space" / path).with_name("tokenizer.json").exists()
    assert [line for line in requirements(shown) if line.startswith("gguf==")]
    assert (
        load_wordlist(read_file(tmp_path / "space/shown.json").wordlist).sha256 == load_wordlist(shown.wordlist).sha256
    )
    assert str(tmp_path) not in json.dumps(moved)


def test_an_earlier_export_is_replaced_and_nothing_else(exported, toy_run_folder, tmp_path):
    (exported / "stale").touch()
    export(read_shown([str(toy_run_folder)]), exported)
    assert not (exported / "stale").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").touch()
    with pytest.raises(UserError, match="is not empty, and no exported page; choose another folder for --export"):
        export(read_shown([str(toy_run_folder)]), other)
    assert (other / "mine.txt").exists()


def test_without_gradio_it_is_told_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install 'distill\[demo\]'"):
        export(read_shown(["demo"]), tmp_path / "space")


def test_a_teacher_in_fewer_bits_needs_its_package(with_gradio, monkeypatch):
    shown = read_shown(["demo"])
    values = shown.to_dict()
    assert not [line for line in requirements(shown) if line.startswith(("bitsandbytes", "gguf"))]
    small = replace(shown.sources[0], model=replace(shown.sources[0].model, gguf_file="x.gguf"))
    assert [line for line in requirements(replace(shown, sources=(small,))) if line.startswith("gguf==")]
    assert values["sources"][0]["title"] in readme(shown).lower()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # installs torch and all the rest
def test_a_bare_environment_runs_it_as_it_is(toy_run_folder, tmp_path):
    """As a Space does: a new environment, the requirements and nothing else, `python app.py`."""
    pytest.importorskip("gradio", reason="no gradio; install the extra `demo`")
    export(read_shown([str(toy_run_folder)]), tmp_path / "space")
    space = shutil.move(tmp_path / "space", tmp_path / "app")
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare/bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "--retries", "0", "-r", "requirements.txt"]
    installed = subprocess.run(install, cwd=space, capture_output=True, text=True)
    if installed.returncode and "Could not find a version" not in installed.stderr + installed.stdout:
        pytest.skip(f"no package registry: {installed.stderr.strip().splitlines()[-1:]}")
    assert installed.returncode == 0, installed.stderr[-2000:]
    keep = ("PATH", "HOME", "LANG", "TMPDIR")
    environment = {name: os.environ[name] for name in keep if name in os.environ} | {"GRADIO_SERVER_PORT": "0"}
    process = subprocess.Popen(
        [python, "app.py"], cwd=space, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.stderr.read()[-2000:]
        with urlopen(address) as answer:
            assert b"mitigated student" in answer.read()
        with urlopen(f"{address}/report/0") as answer:
            assert b"The report" in answer.read()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
