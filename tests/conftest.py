"""Shared fixtures: where the real data lie, and what a machine must have for a marked test to run."""

import fcntl
import gc
import json
import os
import shutil
from pathlib import Path

# Before anything imports torch: several processes of tests share the cores, and small tensors gain nothing by threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test waits for a model hub, or says otherwise where one answers; what is said without this is tested by hand.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Without a GPU, Triton's kernels run in its interpreter, which has to be said before anything imports triton.
if not any(Path("/dev").glob("nvidia*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
from hypothesis import settings
from shared import NEUTRAL_TEXT, REPOSITORY, TOY_ARCHITECTURES, TOY_TEXT

from distill.base.cores import share_cores
from distill.text.wordlist import load_wordlist

share_cores()  # no torch is loaded by now

# Machines differ in speed, and so does one machine under load: time limits belong to pytest-timeout.
settings.register_profile("distill", deadline=None)
settings.load_profile("distill")


def pytest_collection_modifyitems(items):
    """Whole runs first, then trainings: of the longest files, one that began last would keep one process busy alone."""
    tests = Path(__file__).parent
    items.sort(key=lambda item: (item.path.parent != tests, item.path.parent != tests / "training"))


def pytest_collection_finish():
    """What is imported by now stays: the garbage collector, which every training calls, need not look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data():
    """A function from path parts to a file of the real data sets; skips the test where they are absent."""
    root = Path(os.environ.get("DISTILL_DATA", REPOSITORY.parent / "shared" / "data"))

    def find(*parts: str) -> Path:
        path = root.joinpath(*parts)
        if not path.exists():
            pytest.skip(f"real data not found: {path} (set DISTILL_DATA to the folder that holds them)")
        return path

    return find


@pytest.fixture(scope="session")
def short_wordlist(tmp_path_factory):
    """A short list: finding the tokens of the bundled one takes most of a test's time."""
    path = tmp_path_factory.mktemp("lists") / "short.tsv"
    path.write_text("male\tfemale\nhe\tshe\nhis\ther\nman\twoman\nking\tqueen\n", encoding="utf-8")
    return load_wordlist(path)


@pytest.fixture(scope="session")
def toy_tokenizer():
    """A byte-level BPE of 400 entries, trained on a few sentences."""
    from distill.models.student import train_tokenizer

    return train_tokenizer([TOY_TEXT] * 4, 400)


@pytest.fixture(scope="session")
def neutral_tokenizer():
    """A byte-level BPE that has the pronouns of three groups, and more, as one token each."""
    from distill.models.student import train_tokenizer

    return train_tokenizer([NEUTRAL_TEXT] * 4, 500)


@pytest.fixture(scope="session")
def toy_model(toy_tokenizer):
    """A function from an architecture of TOY_ARCHITECTURES (and keys to change) to a small random model."""
    import torch

    from distill.models.student import make_student
    from distill.recipe import StudentConfig

    def make(architecture: str = "gpt2", seed: int = 0, **keys):
        config = {"model_type": architecture, **TOY_ARCHITECTURES[architecture], **keys}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return make_student(StudentConfig(init="config", config=config), None, toy_tokenizer, None).eval()

    return make


@pytest.fixture
def steps_made(monkeypatch):
    """The steps that trainings in this process make, in their order, each as its number in its training.

    What goes on from a checkpoint and what begins anew come to the same weights: only this tells them apart.
    """
    from distill.training.training_log import TrainingLog

    made, plain = [], TrainingLog.on_step_end

    def on_step_end(self, args, state, *others, **named):
        made.append(state.global_step)
        return plain(self, args, state, *others, **named)

    monkeypatch.setattr(TrainingLog, "on_step_end", on_step_end)
    return made


@pytest.fixture(scope="session")
def toy_scores(toy_model, toy_tokenizer, short_wordlist):
    """Scores of three toy models: teacher, baseline and student. Shared: copy it before you change it."""
    from distill.recipe import ScoreConfig
    from distill.scoring.score import score_models
    from distill.text.prompts import load_prompts

    models = {name: (toy_model(seed=i), toy_tokenizer) for i, name in enumerate(("teacher", "baseline", "student"))}
    return score_models(
        models,
        wordlist=short_wordlist,
        documents=["The nurse said that she was tired.", "A woman took her coat; a man took his coat."] * 6,
        prompts=load_prompts()[:40],
        settings=ScoreConfig(samples=4, max_new_tokens=12, bootstrap=50),
    )


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """A function from a name and a function that fills a folder to that folder and what the latter returned.

    Of several processes of tests, the first that asks makes it, and the others wait for that.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # which they share

    def made(name, make):
        folder, done = root / name, root / f"{name}.json"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                if not done.exists():
                    shutil.rmtree(folder, ignore_errors=True)  # another has failed to make it
                    folder.mkdir()
                    done.write_text(json.dumps(make(folder)), encoding="utf-8")
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)  # processes that were forked meanwhile would hold on to it
        return folder, json.loads(done.read_text(encoding="utf-8"))

    return made


@pytest.fixture(scope="session")
def small_run(made_once):
    """Arguments of a run of seconds for `killed.run`, see there."""
    import killed

    return made_once("small-run", killed.small_run)[1]


@pytest.fixture(scope="session")
def finished_run(small_run, made_once):
    """The folder around that run, finished. Shared: copy it before you change it."""
    import killed

    def make(folder):
        ending = killed.run(folder, small_run)
        assert ending.code == 0, ending.errors[-3000:]

    return made_once("finished-run", make)[0]
