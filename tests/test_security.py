"""Nobody let in: what a hostile model, checkpoint, recipe, list or text can not do, tried with hostile ones."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from own_code import with_keys, with_own_code
from safetensors.torch import load_file
from shared import REPOSITORY
from transformers import PreTrainedModel, dynamic_module_utils

from distill.base.errors import UserError
from distill.cli import main
from distill.data.batches import Collator
from distill.demo.sources import read_shown
from distill.models.loading import load_model, load_teacher, load_tokenizer
from distill.models.student import make_student
from distill.objective.settings import LossSettings
from distill.pipeline import run
from distill.recipe import Recipe, StudentConfig, TeacherConfig
from distill.recipe_check import parse_recipe
from distill.reports.model_card import write_cards
from distill.reports.report import write_report
from distill.run_folder import open_run
from distill.scoring.score import score_models
from distill.text.wordlist import load_wordlist
from distill.training.arguments import training_arguments
from distill.training.student_loss import attach_loss
from distill.training.trainer import DistillationTrainer

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


class Bomb:
    """Unpickled, it makes a folder: the trace of code that ran."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def bomb(tmp_path):
    return Bomb(tmp_path / "code-ran")


def test_the_bomb_goes_off_where_nobody_is_careful(tmp_path, bomb):
    torch.save({"weight": bomb}, tmp_path / "file.pt")
    torch.load(tmp_path / "file.pt", weights_only=False)
    assert bomb.trace.exists()


# ---------------------------------------------------------------------------------------------------------- weights


@pytest.fixture
def model_folder(tmp_path, toy_model, toy_tokenizer):
    folder = tmp_path / "model"
    toy_model().save_pretrained(folder)
    toy_tokenizer.save_pretrained(folder)
    return folder


def pickled(folder: Path, content: object, name: str = "pytorch_model.bin") -> None:
    """Put a pickle in the place of the safetensors."""
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / name)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "model.pkl"])
def test_a_pickle_is_refused(model_folder, bomb, name):
    pickled(model_folder, {"weight": bomb}, name)
    for load in (lambda: load_teacher(TeacherConfig(path=str(model_folder))), lambda: load_model(str(model_folder))):
        with pytest.raises(UserError, match=rf"{re.escape(name)}.*not loaded.*allow_pickle"):
            load()
    assert not bomb.trace.exists()


def test_a_pickle_is_loaded_where_the_recipe_says_so(model_folder, toy_tokenizer):
    weights = load_file(model_folder / "model.safetensors")
    pickled(model_folder, weights)
    teacher, _ = load_teacher(TeacherConfig(path=str(model_folder), allow_pickle=True))
    assert all(torch.equal(teacher.state_dict()[name], weight) for name, weight in weights.items())
    for allowed in (False, True):
        config = StudentConfig(init="checkpoint", path=str(model_folder), allow_pickle=allowed)
        if allowed:
            assert make_student(config, None, toy_tokenizer, None)
        else:
            with pytest.raises(UserError, match="allow_pickle"):
                make_student(config, None, toy_tokenizer, None)


def test_an_allowed_pickle_still_runs_no_code(model_folder, bomb):
    pickled(model_folder, {"weight": bomb})
    with pytest.raises(UserError, match="no causal language model can be loaded"):
        load_teacher(TeacherConfig(path=str(model_folder), allow_pickle=True))
    assert not bomb.trace.exists()


def test_an_index_of_safetensors_cannot_name_a_pickle(model_folder, bomb):
    torch.save({"weight": bomb}, model_folder / "part.bin")
    (model_folder / "model.safetensors").rename(model_folder / "decoy.safetensors")
    index = model_folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"weight": "part.bin"}}), encoding="utf-8")
    with pytest.raises(UserError, match=r"part\.bin.*not loaded"):
        load_model(str(model_folder))
    index.write_text('{"weight_map": 3}', encoding="utf-8")
    with pytest.raises(UserError, match=r"index\.json: is damaged"):
        load_model(str(model_folder))
    assert not bomb.trace.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoints_state_runs_no_code(tmp_path, toy_model, toy_tokenizer, short_wordlist, bomb, name):
    from distill.data.counts import PackingCounts
    from distill.data.packing import pack
    from distill.text.counterfactual import Swapper

    blocks = list(pack(["The king saw her."] * 4, toy_tokenizer, Swapper(short_wordlist), 16, PackingCounts()))

    def trainer(steps: int) -> DistillationTrainer:
        student = toy_model()
        attach_loss(student)
        recipe = Recipe(trainer={"use_cpu": True, "max_steps": steps, "save_steps": 1, "disable_tqdm": True})
        return DistillationTrainer(
            model=student,
            args=training_arguments(recipe, tmp_path / "checkpoints"),
            train_dataset=blocks,
            data_collator=Collator(1, False),
            teacher=None,
            settings=LossSettings(kd=0.0, ce=1.0),
            role_maps=None,
        )

    trainer(1).train()
    checkpoint = tmp_path / "checkpoints" / "checkpoint-1"
    assert trainer(2).train(resume_from_checkpoint=str(checkpoint)).global_step == 2
    assert (checkpoint / name).exists()
    torch.save({"state": bomb}, checkpoint / name)
    with pytest.raises(Exception, match="weights_only"):
        trainer(2).train(resume_from_checkpoint=str(checkpoint))
    assert not bomb.trace.exists()


# ------------------------------------------------------------------------------------------------- code with a model


@pytest.fixture
def model_with_code(tmp_path, model_folder, monkeypatch):
    """A model that brings code of its own, which leaves a trace when it is run."""
    trace = tmp_path / "code-ran"
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    return with_own_code(model_folder, trace), trace


def test_code_of_a_model_is_not_run(model_with_code):
    folder, trace = model_with_code
    for load in (load_model, lambda path: load_teacher(TeacherConfig(path=path))):
        with pytest.raises(UserError, match=r"code of its own, which is not run.*teacher\.trust_remote_code"):
            load(str(folder))
    with pytest.raises(UserError, match="trust_remote_code"):
        make_student(StudentConfig(init="checkpoint", path=str(folder)), None, None, None)
    assert not trace.exists()


def _with_own_words(folder: Path) -> Path:
    """The folder of a model with code of its own, whose tokenizer has some now, too."""
    with (folder / "own.py").open("a", encoding="utf-8") as stream:
        stream.write(
            "from transformers import PreTrainedTokenizerFast\nclass OwnWords(PreTrainedTokenizerFast): pass\n"
        )
    classes = {"AutoTokenizer": [None, "own.OwnWords"]}
    with_keys(folder / "tokenizer_config.json", tokenizer_class="OwnWords", auto_map=classes)
    return folder


def test_code_of_a_tokenizer_is_run_only_where_the_recipe_says_so(model_with_code):
    folder, trace = model_with_code
    _with_own_words(folder)
    with pytest.raises(UserError, match="code of its own, which is not run"):
        load_tokenizer(str(folder))
    assert not trace.exists()
    assert type(load_tokenizer(str(folder), trust_remote_code=True)).__name__ == "OwnWords"
    assert trace.exists()


def test_code_of_a_model_is_run_where_the_recipe_says_so(model_with_code, tmp_path):
    folder, trace = model_with_code
    teacher, tokenizer = load_teacher(TeacherConfig(path=str(folder), trust_remote_code=True))
    assert trace.exists()
    student = make_student(StudentConfig(num_layers=1), teacher, tokenizer, str(folder))
    assert type(student).__name__ == "OwnModel"
    config = StudentConfig(init="checkpoint", path=str(folder), trust_remote_code=True)
    assert type(make_student(config, teacher, tokenizer, str(folder))).__name__ == "OwnModel"


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("score", ["{model}", "demo", "--texts", "{text}", "--metrics", "perplexity", "--output_dir", "{out}"]),
        ("score", ["demo", "--reference", "{model}", "--members", "{text}", "--others", "{other}",
                   "--metrics", "memorisation", "--output_dir", "{out}"]),
        ("generate", ["{model}", "--prompt", "The king", "--max_new_tokens", "2"]),
        ("export", ["{model}", "--to", "safetensors-fp16", "--output", "{out}"]),
        ("swap", ["{text}", "--resolver", "teacher:{model}"]),
        ("wordlist", ["check", "english_gender", "--tokenizer", "{words}"]),
    ],
)  # fmt: skip
def test_code_of_a_model_that_a_command_names_is_run_only_where_it_says_so(
    model_with_code, tmp_path, verb, options, capsys
):
    folder, trace = model_with_code
    places = {name: tmp_path / f"{name}.txt" for name in ("text", "other")}
    for name, place in places.items():
        place.write_text(f"The king was here, and the {name} too.\n", encoding="utf-8")
    words = _with_own_words(Path(shutil.copytree(folder, tmp_path / "words")))
    given = [option.format(model=folder, words=words, out=tmp_path / "out", **places) for option in options]
    assert main([verb, *given]) == 2
    assert "comes with code of its own, which is not run" in capsys.readouterr().err
    assert not trace.exists() and not (tmp_path / "out").exists()
    assert main([verb, *given, "--trust_remote_code"]) == 0
    assert trace.exists()
    if verb == "export":
        assert type(load_model(str(tmp_path / "out"), trust_remote_code=True)).__name__ == "OwnModel"


def test_the_page_of_a_checkpoint_runs_its_code_only_where_it_was_told_to(model_with_code):
    folder, _ = model_with_code
    assert [read_shown([str(folder)], None, trust).sources[0].model.trust_remote_code for trust in (False, True)] == [
        False,
        True,
    ]


def test_a_card_says_how_a_model_with_code_is_loaded(model_with_code, toy_scores):
    folder, _ = model_with_code
    for own_code in (True, False):
        if not own_code:
            with_keys(folder / "config.json", auto_map=None)
        (folder.parent / "student").unlink(missing_ok=True)
        (folder.parent / "student").symlink_to(folder)
        write_cards(Recipe(), toy_scores, folder.parent)
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert card.count("from_pretrained(folder, trust_remote_code=True)") == 2 * own_code
        assert ("comes with code of its own" in card) == own_code


def test_what_was_trusted_stands_in_the_card(tmp_path, toy_model, toy_tokenizer, short_wordlist):
    model: tuple[PreTrainedModel, object] = (toy_model(), toy_tokenizer)
    scores = score_models({"student": model}, wordlist=short_wordlist, documents=[], prompts=[], settings=no_metrics())
    (tmp_path / "student").mkdir()
    keys = ("teacher.allow_pickle", "student.trust_remote_code")
    for trusted in (False, True):
        recipe = Recipe(teacher=TeacherConfig(allow_pickle=trusted), student=StudentConfig(trust_remote_code=trusted))
        write_report(recipe, scores, None, tmp_path)
        card = (tmp_path / "student" / "README.md").read_text(encoding="utf-8").replace("\\", "")
        assert [key in card for key in keys] == [trusted] * 2


def no_metrics():
    from distill.recipe import ScoreConfig

    return ScoreConfig(metrics=["perplexity"], bootstrap=5)


# ---------------------------------------------------------------------------------------------------------- recipes


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


CALLS = ["!!python/object/apply:os.mkdir [{trace}]", "!!python/object/new:os.mkdir [{trace}]", "!!python/name:os.mkdir"]


@pytest.mark.parametrize("call", CALLS)
def test_yaml_calls_nothing(tmp_path, call):
    trace = tmp_path / "code-ran"
    call = call.format(trace=trace)
    with pytest.raises(UserError, match=r"r\.yaml, line 1: not valid YAML: .*python"):
        parse_recipe(["--config", write(tmp_path / "r.yaml", f"seed: {call}\n")])
    for option in ("--seed", "--trainer", "--student.config", "--corpus", "--output_dir"):
        try:
            recipe = parse_recipe([option, call, "--corpus.max_documents", "5", "--held_out.max_documents", "5"])
        except UserError:
            continue
        assert recipe.output_dir == call  # text, where text is asked for
    assert not trace.exists()


@pytest.mark.parametrize(
    "text",
    [
        "trainer:\n  a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"  {new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghi")),
        "student: {config: &a {self: *a}}\n",
        "trainer: &a [*a]\n",
        "trainer: " + "[" * 5000 + "]" * 5000,
    ],
    ids=["billions of values", "a mapping that holds itself", "a list that holds itself", "nested too deep"],
)
def test_a_recipe_cannot_be_a_bomb(tmp_path, text):
    with pytest.raises(UserError, match=r"r\.yaml.*(values|nested)"):
        parse_recipe(["--config", write(tmp_path / "r.yaml", text)])


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (f"trainer: {{hub_token: {TOKEN}}}", []),
        ("trainer: {push_to_hub_token: something-else}", []),
        (f"corpus: {{files: ['https://user:{TOKEN}@example.org/x']}}", []),
        ("", ["--trainer.hub_token", TOKEN]),
        ("", [f"--trainer.hub_token={TOKEN}"]),
        ("", ["--trainer", json.dumps({"hub_token": TOKEN})]),
        ("", ["--output_dir", f"outputs/{TOKEN}"]),
        ("", [f"--hub_tokne={TOKEN}"]),
    ],
)
@pytest.mark.parametrize("last", [[], ["--print_config"]])
def test_a_token_is_refused_and_not_shown(tmp_path, capsys, text, options, last):
    with pytest.raises(UserError, match=r"token of the model hub.*HF_TOKEN") as error:
        parse_recipe(["--config", write(tmp_path / "r.yaml", text), *options, *last])
    shown = capsys.readouterr()
    assert TOKEN not in str(error.value) + shown.out + shown.err


def test_a_message_shows_no_token_and_obeys_no_control_character():
    message = str(UserError(f"a\x1b[31m\u202eb\n\ud800 {TOKEN} {'x' * 10_000_000} hint"))
    assert message.startswith("a\\x1b[31m\\u202eb\\n\\ud800 hf_*** xxx")
    assert message.endswith("xxx hint")
    assert len(message) < 3000


# ------------------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize("name", ["student", "checkpoints", "cache", "scores.json", "cache/scores", "checkpoints/a/b"])
def test_a_run_does_not_follow_links_out_of_its_folder(tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine", encoding="utf-8")
    recipe = Recipe(output_dir=str(tmp_path / "run"))
    with open_run(recipe) as folder:
        pass
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(outside)
    with pytest.raises(UserError, match=f"{name}: is a symbolic link that leads out"), open_run(recipe):
        pass
    assert [path.name for path in outside.iterdir()] == ["precious"]


def test_links_within_the_folder_and_to_it_are_the_users_own(tmp_path):
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "big-disk")
    recipe = Recipe(output_dir=str(tmp_path / "run"))
    with open_run(recipe) as folder:
        (folder / "student").mkdir()
        (folder / "latest").symlink_to("student")
    with open_run(recipe):
        pass
    assert (tmp_path / "big-disk" / "recipe.yaml").exists()


SAMPLED = ["--corpus.max_documents", "5", "--held_out.max_documents", "5"]


@pytest.mark.parametrize("key", ["output_dir", "logging_dir"])
def test_the_trainer_writes_where_the_run_does(key, tmp_path):
    recipe = parse_recipe([f"--trainer.{key}", str(tmp_path / "elsewhere"), *SAMPLED, "--output_dir", str(tmp_path)])
    with pytest.raises(UserError, match=rf"trainer.*{key}"):
        run(recipe)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("metric", ["../../evil", "/tmp/evil", "perplexity/../../evil", ""])
def test_a_score_is_no_path(metric, tmp_path):
    arguments = ["--scores.metrics", json.dumps([metric]), "--trainer.use_cpu", "true", "--output_dir", str(tmp_path)]
    with pytest.raises(UserError, match=r"scores\.metrics: unknown metric"):
        run(parse_recipe([*arguments, *SAMPLED]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.tsv", "..", "sub/list.tsv"])
def test_a_word_list_brings_only_its_neighbours(tmp_path, name):
    path = tmp_path / "lists" / "words.tsv"
    path.parent.mkdir()
    (tmp_path / "secret.tsv").write_text("protected\nhunter2\n", encoding="utf-8")
    path.write_text(f"# with: {name}\nmale\tfemale\nhe\tshe\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"words\.tsv: the comment '# with:' names"):
        load_wordlist(path)


# ---------------------------------------------------------------------------- a whole run: network, tokens, reports

HOSTILE = [
    "<script>evil()</script>",
    '<img src="evil.png" onerror="evil()">',
    "[click](javascript:evil)",
    "![](http://evil.example/x.png)",
    "<!-- evil --><iframe src=evil>",
    "`evil` **evil** | evil | # evil",
    '=HYPERLINK("http://evil.example")',
    "+evil(1)",
    "@evil",
    "-2+3+cmd|' /C calc'!evil",
    '"><svg onload=evil()>',
    "</td></table></style></script><script>evil()</script>",
]

GUARD = """
import os, socket

log = os.environ["SOCKET_LOG"]

def note(address):
    with open(log, "a") as stream:
        stream.write(f"{address!r}\\n")
    raise OSError("the socket guard lets nothing out")

def guarded(plain):
    def connect(self, address):
        host = address[0] if isinstance(address, tuple) else ""
        if self.family == socket.AF_UNIX or host in ("127.0.0.1", "::1", "localhost"):
            return plain(self, address)
        note(address)
    return connect

socket.socket.connect = guarded(socket.socket.connect)
socket.socket.connect_ex = guarded(socket.socket.connect_ex)
plain_getaddrinfo = socket.getaddrinfo

def getaddrinfo(host, *rest, **more):
    if host in (None, "", "localhost", "127.0.0.1", "::1", socket.gethostname()):
        return plain_getaddrinfo(host, *rest, **more)
    note(host)

socket.getaddrinfo = getaddrinfo
"""


def guarded(folder: Path, code: str) -> tuple[subprocess.CompletedProcess, str]:
    """Run Python with a guard on its sockets; what it did, and the addresses that it asked for."""
    (folder / "guard").mkdir(exist_ok=True)
    (folder / "guard" / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    log = folder / "sockets.log"
    log.write_text("")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(folder / "guard"), str(REPOSITORY)]),
        "SOCKET_LOG": str(log),
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(folder / "hf"),
        "HF_TOKEN": TOKEN,
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=folder, timeout=500
    )
    return done, log.read_text()


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory, toy_model, toy_tokenizer):
    """A small run, with the hub allowed, a token in the environment, and markup in all that comes from outside.

    Returns:
        The folder around it; the folders of the run, of scores of its student, and of both side by side; how it ended,
        and whom it asked.
    """
    folder = tmp_path_factory.mktemp("hostile")
    toy_model(n_positions=256).save_pretrained(folder / "teacher")
    toy_tokenizer.save_pretrained(folder / "teacher")
    rows = [f"{mark}\t{mark}\tThe {mark} said that" for mark in (text.replace("\t", " ") for text in HOSTILE)]
    write(folder / "prompts.tsv", "group\tsubject\tprompt\n" + "\n".join(rows) + "\n")
    write(folder / "words.tsv", f"{HOSTILE[0]}\t{HOSTILE[6]}\nhe\tshe\nking\tqueen\nhis\ther\n")
    texts = [f"The king said {mark} and he saw his queen." for mark in HOSTILE]
    write(folder / "train.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts * 4))
    recipe = {
        "output_dir": str(folder / "<script>evil()<" / "script>"),
        "teacher": {"path": str(folder / "teacher")},
        "student": {"num_layers": 1},
        "block_length": 64,
        "wordlist": str(folder / "words.tsv"),
        "corpus": {"source": "files", "files": [str(folder / "train.jsonl")]},
        "held_out": {"source": "files", "files": [str(folder / "train.jsonl")], "max_documents": 12},
        "target": {"op": "expmean", "reverse_roles": True, "augment": True},
        "trainer": {"max_steps": 2, "save_steps": 1, "use_cpu": True, "disable_tqdm": True},
        "scores": {"prompts": str(folder / "prompts.tsv"), "samples": 1, "max_new_tokens": 4, "bootstrap": 20},
    }
    write(folder / "r.yaml", yaml.safe_dump(recipe))
    output, scores, both = Path(recipe["output_dir"]), folder / "@evil", folder / "both"
    score = [
        "score", str(output / "student"), "--output_dir", str(scores), "--prompts", str(folder / "prompts.tsv"),
        "--wordlist", str(folder / "words.tsv"), "--texts", str(folder / "train.jsonl"),
        "--samples", "1", "--max_new_tokens", "4", "--bootstrap", "20",
    ]  # fmt: skip
    report = ["report", str(output), str(scores), "--output", str(both)]
    code = (
        "from distill.base.console import run_entry\nfrom distill.train import main\nfrom distill import cli\n"
        f"assert run_entry(main, ['--config', {str(folder / 'r.yaml')!r}]) == 0\n"
        f"assert cli.main({score!r}) == 0\nassert cli.main({report!r}) == 0\n"
    )
    done, asked = guarded(folder, code)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, (output, scores, both), done, asked


def test_the_guard_sees_who_asks(tmp_path):
    code = "import urllib.request as u\ntry: u.urlopen('http://example.org')\nexcept OSError: pass\n"
    assert guarded(tmp_path, code)[1] == "'example.org'\n"
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 1)\nexcept OSError: pass\n"
    assert "192.0.2.1" in guarded(tmp_path, code)[1]


def test_a_run_with_local_models_asks_nobody(hostile_run):
    """Without HF_HUB_OFFLINE: there is nothing that it would need."""
    assert hostile_run[3] == ""


def test_an_offline_run_asks_nobody_for_a_hub_model(tmp_path):
    code = (
        "import os; os.environ['HF_HUB_OFFLINE'] = '1'\n"
        "from distill.base.console import run_entry\nfrom distill.train import main\n"
        "options = ['--teacher.path', 'nobody/nothing']\n"
        "options += ['--corpus.max_documents', '5', '--held_out.max_documents', '5']\n"
        "assert run_entry(main, options) == 2\n"
    )
    done, asked = guarded(tmp_path, code)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "nobody/nothing" in done.stderr and "Traceback" not in done.stderr
    assert asked == ""


def test_a_run_keeps_no_token(hostile_run):
    folder, _, done, _ = hostile_run
    assert TOKEN not in done.stdout + done.stderr
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in written)
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


class _Markup(HTMLParser):
    """Collects markup that foreign text became: tags with its words in what is loaded, run or styled."""

    def __init__(self) -> None:
        super().__init__()
        self.became: list[str] = []
        self.inside: str | None = None

    def handle_starttag(self, tag, attributes):
        acts = [value for name, value in attributes if name in ("src", "href", "style") or name.startswith("on")]
        if tag in ("iframe", "object", "embed", "base") or any("evil" in (value or "") for value in acts):
            self.became.append(f"{tag} {attributes}")
        self.inside = tag if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        # In a script of our own, foreign text may stand as data only; there it has no call.
        if self.inside and "evil()" in data:
            self.became.append(f"{self.inside}: {data[:80]}")

    def handle_comment(self, data):
        if "evil" in data:
            self.became.append(f"comment: {data}")


def markup_of(html: str) -> list[str]:
    parser = _Markup()
    parser.feed(html)
    parser.close()
    return parser.became


def markdown_faults(text: str) -> list[str]:
    """What of a Markdown text would act, or has become more than the words that it quotes."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    markdown.validateLink = lambda url: True  # other readers may not refuse javascript:
    rendered = markdown.render(text)
    faults = markup_of(rendered)
    faults += re.findall(r"<(?:code|strong|em|h\d)>[^<]*\bevil\b[^<]*</", re.sub(r"<h1>.*?</h1>", "", rendered))
    return faults


def csv_faults(text: str) -> list[str]:
    """Cells that a spreadsheet would take for a formula."""

    def is_number(cell: str) -> bool:
        try:
            float(cell)
        except ValueError:
            return False
        return True

    cells = [cell for row in csv.reader(text.splitlines()) for cell in row]
    return [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r")) and not is_number(cell)]


CHECKS = {".md": markdown_faults, ".html": markup_of, ".htm": markup_of, ".svg": markup_of, ".csv": csv_faults}


def test_the_checks_see_what_is_not_escaped():
    for mark in HOSTILE[:5] + HOSTILE[10:]:
        assert markdown_faults(f"words {mark}\n"), mark
    assert markdown_faults(HOSTILE[5])
    for mark in (*HOSTILE[:2], HOSTILE[4], *HOSTILE[10:]):
        assert markup_of(f"<p>{mark}</p>"), mark
    for mark in HOSTILE[6:10]:
        assert csv_faults(f'x,"{mark.replace(chr(34), chr(34) * 2)}"\n'), mark


def test_no_report_lets_foreign_text_act(hostile_run):
    _, (output, scores, both), _, _ = hostile_run
    pages = {folder / f"report.{kind}" for folder in (output, scores, both) for kind in ("md", "html")}
    cards = {output / name / "README.md" for name in ("student", "baseline")}
    reports = [p for folder in (output, scores, both) for p in folder.rglob("*") if p.suffix in CHECKS]
    assert pages | cards | {both / "scores.csv"} <= set(reports)
    for path in reports:
        text = path.read_text(encoding="utf-8")
        assert "evil" in text or path not in pages
        assert not CHECKS[path.suffix](text), path


# ------------------------------------------------------------------------------------------------------- documents


def test_what_security_md_names_is_there():
    text = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    for target in targets:
        assert (REPOSITORY / target.partition("#")[0]).exists(), target
    keys = re.findall(r"`(\w+)\.(\w+): true`", text)
    assert {section for section, _ in keys} == {"teacher", "student", "privacy"}
    for section, key in keys:
        assert hasattr(getattr(Recipe(), section), key)


def test_the_list_of_dependencies_is_current():
    """tests/benchmarks/DEPENDENCIES.md names every pin with its version; licences are those of the packages."""
    sys.path.insert(0, str(REPOSITORY / "tests" / "benchmarks"))
    try:
        import dependencies
    finally:
        sys.path.pop(0)
    rows = dependencies.read_table()
    assert {name: version for name, (version, _) in rows.items()} == dependencies.pins()
    for name, (version, licence) in rows.items():
        assert licence, name
        if dependencies.installed(name) == version:
            assert dependencies.licence_of(name) == licence, f"{name}; run tests/benchmarks/dependencies.py"
