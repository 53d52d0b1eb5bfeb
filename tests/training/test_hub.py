"""Which student is pushed to the hub, when and with what."""

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import train_toy
from huggingface_hub import ModelCard

from distill import pipeline
from distill.base.errors import UserError
from distill.recipe import Recipe, TargetConfig, read_resolved
from distill.recipe_check import parse_recipe
from distill.reports.model_card import write_cards
from distill.run_folder import open_run
from distill.training import hub as hub_module
from distill.training.hub import push_student
from distill.training.trainer_keys import check_trainer_keys

RECIPE = Recipe(output_dir="outputs/try", target=TargetConfig(op="expmean", reverse_roles=True, augment=True))

TOKEN = "hf_" + "secret" * 5


class FakeHub:
    """Records what it is asked for; stands in for huggingface_hub.HfApi."""

    calls: ClassVar[list] = []
    error: Exception | None = None
    broken: Exception | None = None  # while files are sent

    def __init__(self, **keys):
        self.token = keys["token"]

    def create_repo(self, repo_id, **keys):
        self.calls.append(("create_repo", repo_id, keys | {"token": self.token}))
        if self.error:
            raise self.error
        return SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"alice/{repo_id}")

    def create_branch(self, repo_id, **keys):
        self.calls.append(("create_branch", repo_id, keys))
        if " " in keys["branch"] or keys["branch"].startswith("refs/"):
            raise OSError(f"Invalid reference for a branch: {keys['branch']}")

    def upload_folder(self, **keys):
        if self.broken:
            raise self.broken
        files = {path.name: path.read_text() for path in sorted(Path(keys["folder_path"]).iterdir())}
        self.calls.append(("upload_folder", keys["repo_id"], keys | {"files": files}))
        return "https://hub.example/commit"


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(hub_module, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "calls", [])
    monkeypatch.setattr(FakeHub, "error", None)
    monkeypatch.setattr(FakeHub, "broken", None)
    return FakeHub


@pytest.fixture
def finished(tmp_path, toy_scores):
    """The folder of a run with both models, cards and checkpoints."""
    folder = tmp_path / "mine"
    for name in ("student", "baseline", "checkpoints/student/checkpoint-1"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_text(name)
    write_cards(recipe_for(folder), toy_scores, folder)
    return folder


def recipe_for(folder, **trainer) -> Recipe:
    return Recipe(output_dir=str(folder), target=RECIPE.target, trainer={"use_cpu": True, **trainer})


def test_nothing_is_pushed_unasked(hub, finished):
    push_student(recipe_for(finished), finished)
    assert hub.calls == []


def test_the_finished_student_is_pushed_with_its_card(hub, finished):
    settings = {"hub_model_id": "alice/fair", "hub_token": TOKEN, "hub_private_repo": True, "hub_revision": "main"}
    push_student(recipe_for(finished, push_to_hub=True, **settings), finished)
    (created, name, keys), branch, (uploaded, target, upload) = hub.calls
    assert branch == ("create_branch", "alice/fair", {"branch": "main", "exist_ok": True})
    assert (created, name, uploaded, target) == ("create_repo", "alice/fair", "upload_folder", "alice/fair")
    assert (keys["token"], keys["private"], keys["exist_ok"]) == (TOKEN, True, True)
    assert upload["revision"] == "main"
    assert set(upload["files"]) == {"README.md", "model.safetensors"}
    assert upload["files"]["model.safetensors"] == "student"
    assert ModelCard(upload["files"]["README.md"]).data.license == "cc-by-sa-4.0"
    assert TOKEN not in "".join(upload["files"].values())


def test_a_pull_request_is_pushed_to_and_a_branch_that_cannot_be_is_named(hub, finished):
    push_student(recipe_for(finished, push_to_hub=True, hub_revision="refs/pr/3"), finished)
    assert hub.calls[-1][2]["revision"] == "refs/pr/3"
    with pytest.raises(UserError, match=r"trainer\.hub_revision: no branch my branch of alice/mine"):
        push_student(recipe_for(finished, push_to_hub=True, hub_revision="my branch"), finished)


def test_the_repository_is_called_like_the_run_by_default(hub, finished):
    push_student(recipe_for(finished, push_to_hub=True), finished)
    assert [target for _, target, _ in hub.calls] == ["mine", "alice/mine"]


@pytest.mark.parametrize("error", [OSError("401 Client Error\nand more"), ValueError("bad name")])
def test_a_hub_that_refuses_is_the_users_matter(hub, finished, error):
    hub.error = error
    with pytest.raises(UserError, match=r"trainer\.push_to_hub: .*(401|bad name)") as caught:
        push_student(recipe_for(finished, push_to_hub=True, hub_token=TOKEN), finished)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_checkpoints_are_not_pushed(strategy):
    with pytest.raises(UserError, match=f"hub_strategy is {strategy}.*only the finished student"):
        check_trainer_keys({"hub_strategy": strategy})


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Error while uploading 'model.safetensors' to the Hub."), "Error while uploading 'model.saf"),
        (ValueError('Invalid metadata in README.md.\n- "model-index[0]" fails to match'), r'README.md. - "model-index'),
    ],
)
def test_a_push_that_fails_on_the_way_is_one_sentence_with_the_reason(hub, finished, error, words):
    hub.broken = error
    with pytest.raises(UserError, match=words) as caught:
        push_student(recipe_for(finished, push_to_hub=True), finished)
    assert "the student is finished in" in str(caught.value) and "\n" not in str(caught.value)


def test_training_pushes_no_checkpoint(hub, tmp_path, monkeypatch):
    """Neither we nor transformers, which has a client of its own for it."""
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: pytest.fail("Trainer asks the hub"), raising=False)
    train_toy.main(str(tmp_path / "run"), 4, 1, steps=1, push_to_hub=True, hub_model_id="alice/fair", save_steps=1)
    assert hub.calls == []
    assert list((tmp_path / "run" / "checkpoints").glob("checkpoint-1"))


def test_who_may_not_push_knows_before_any_text_is_made_and_may_ask_otherwise(hub, tmp_path, monkeypatch):
    """In a fresh folder, of which nothing stays; and of a finished run, which may be published elsewhere, or later."""
    monkeypatch.setattr("distill.pipeline.open_corpus", lambda *_, **__: pytest.fail("text is made"))
    hub.error = OSError("401 Client Error")
    asked = ["--config", "debug", "--output_dir", str(tmp_path / "run"), "--trainer.push_to_hub", "true"]
    with pytest.raises(UserError, match=r"no repository alice/fair to push to \(401 Client Error\)"):
        pipeline.run(parse_recipe([*asked, "--trainer.hub_model_id", "alice/fair"]))
    assert not (tmp_path / "run").exists()
    with open_run(parse_recipe(asked[:4])) as folder:
        (folder / "scores.json").write_text("{}")
    with open_run(parse_recipe([*asked, "--trainer.hub_model_id", "bob/fair"])):
        pass
    assert read_resolved(folder / "recipe.yaml")["trainer"]["hub_model_id"] == "bob/fair"


def test_the_card_is_there_before_the_push(hub, finished, toy_scores):
    from distill.reports.report import write_report

    (finished / "student" / "README.md").unlink()
    write_report(recipe_for(finished, push_to_hub=True, hub_token=TOKEN), toy_scores, None, finished)
    assert "README.md" in hub.calls[-1][2]["files"]
    for name in ("report.md", "report.html"):
        assert TOKEN not in (finished / name).read_text(encoding="utf-8")
