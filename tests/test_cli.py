"""The `distill` command: what each verb does, and what a user reads after a mistake."""

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st

import distill
from distill.cli import VERBS, main
from distill.counterfactual import Swapper
from distill.wordlist import load_wordlist

HEAVY = ("torch", "transformers", "datasets", "evaluate")


def typed(monkeypatch, content: bytes) -> None:
    """Let `-` read this."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY.parent
    ).stdout


# ------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_has_two_examples(verb, capsys):
    arguments = [verb, "--help"] if verb else ["--help"]
    try:
        assert main(arguments) == 0
    except SystemExit as end:
        assert end.code == 0
    shown = capsys.readouterr().out
    examples = shown.partition("examples:\n")[2].split("\n\n")[0].splitlines()
    assert len(examples) == 2
    assert all(f"distill {verb or 'train'}" in line for line in examples)


def test_train_help_has_every_key_and_tells_of_accelerate(capsys):
    main(["train", "--help"])
    shown = capsys.readouterr().out
    assert "--target.reverse_roles" in shown
    assert "accelerate launch --multi_gpu" in shown


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"distill {distill.__version__}\n"


@pytest.mark.parametrize("call", ["main(['swap', sys.argv[0]])", "main(['--help'])", "main(['train', '--help'])"])
def test_quick_verbs_import_nothing_heavy(call):
    code = f"import sys; sys.argv[0] = {__file__!r}\nfrom distill.cli import main\ntry:\n    {call}\n"
    code += f"except SystemExit:\n    pass\nprint('HEAVY', [m for m in {HEAVY} if m in sys.modules])"
    assert run_python(code).rstrip().endswith("HEAVY []")


# ------------------------------------------------------------------------------------------------------------- swap


def test_swap_writes_one_line_for_each(monkeypatch, capfdbinary):
    typed(monkeypatch, b"She told her father.\r\n\nNothing here\xe2\x80\xa8he\nthe king")
    assert main(["swap", "-"]) == 0
    assert capfdbinary.readouterr().out == b"He told his mother.\r\n\nNothing here\xe2\x80\xa8she\nthe queen"


def test_swap_reads_a_file_and_a_list_of_more_groups(tmp_path, capfdbinary):
    text, words = tmp_path / "text.txt", tmp_path / "words.tsv"
    text.write_text("The Church and a rabbi\n", encoding="utf-8")
    words.write_text("christian\tmuslim\tjewish\nchurch\tmosque\tsynagogue\npriest\timam\trabbi\n", encoding="utf-8")
    assert main(["swap", str(text), "--wordlist", str(words)]) == 0
    assert capfdbinary.readouterr().out == b"The Mosque and a priest\n"
    assert main(["swap", str(text), "--wordlist", str(words), "--shift", "2"]) == 0
    assert capfdbinary.readouterr().out == b"The Synagogue and a imam\n"


@pytest.fixture(scope="module")
def swapper():
    return Swapper(load_wordlist("english_gender"))


@settings(max_examples=30, deadline=None)  # each example loads the word list anew
@given(text=st.text(st.one_of(st.sampled_from("he sr\n\r\u2028\x85\x0b"), st.characters(exclude_categories=["Cs"]))))
def test_swap_keeps_the_lines_of_any_text(text, swapper):
    with pytest.MonkeyPatch.context() as patch:
        typed(patch, text.encode())
        out = io.BytesIO()
        patch.setattr(sys, "stdout", SimpleNamespace(buffer=out))
        assert main(["swap", "-"]) == 0
    lines, swapped = text.encode().split(b"\n"), out.getvalue().split(b"\n")
    assert len(swapped) == len(lines)
    for before, after in zip(lines, swapped, strict=True):
        assert after.decode() == swapper.swap(before.decode()).text


def test_swap_ends_quietly_when_its_reader_leaves():
    command = f"yes he is a king | head -n 200000 | {sys.executable} -m distill.cli swap - | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.stdout, done.stderr) == ("she is a queen\n", "")


# ------------------------------------------------------------------------------------------------------------ score


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, toy_model, toy_tokenizer):
    """The folder of a toy model; with a number, of another one."""
    made = {}

    def folder(seed: int = 0) -> str:
        if seed not in made:
            path = tmp_path_factory.mktemp(f"toy-{seed}")
            toy_model(seed=seed).save_pretrained(path)
            toy_tokenizer.save_pretrained(path)
            made[seed] = str(path)
        return made[seed]

    return folder


QUICK = ["--max_prompts", "4", "--samples", "1", "--max_new_tokens", "3", "--bootstrap", "20"]


def test_score_writes_scores_and_prints_a_table(checkpoint, tmp_path, capsys):
    texts = tmp_path / "held-out.txt"
    texts.write_text("The nurse said that she was late. The king saw the queen.", encoding="utf-8")
    arguments = ["score", checkpoint(1), "--against", checkpoint(0), "--texts", str(texts), *QUICK]
    assert main([*arguments, "--output_dir", str(tmp_path / "out")]) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    reference, scored = scores["models"]  # in this order, so that the difference is "scored - reference"
    assert f"{scored} - {reference}" in scores["differences"]
    assert scores["models"][scored]["perplexity"]["value"] > 1
    assert "perplexity" in capsys.readouterr().out


def test_score_measures_only_the_metrics_asked_for(checkpoint, tmp_path):
    arguments = ["score", checkpoint(0), "--metrics", "next_word_disparity, neutral_rate", *QUICK]
    assert main([*arguments, "--output_dir", str(tmp_path)]) == 0
    (metrics,) = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["models"].values()
    assert list(metrics) == ["next_word_disparity", "neutral_rate"]


def test_score_without_texts_leaves_their_metrics_undefined(checkpoint, tmp_path):
    assert main(["score", checkpoint(0), *QUICK, "--output_dir", str(tmp_path)]) == 0
    (metrics,) = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["models"].values()
    assert metrics["perplexity"]["value"] is None
    assert metrics["next_word_disparity"]["value"] is not None


def test_score_does_not_overwrite_a_run(checkpoint, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("seed: 0\n", encoding="utf-8")
    assert main(["score", checkpoint(0), "--output_dir", str(tmp_path)]) == 2
    assert "another --output_dir" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ train


def test_train_is_the_entry_on_one_process():
    """The same arguments give the same exit code and message, and `distill/` first on the path hides nothing."""
    ends = []
    for program in (["distill/train.py"], ["-m", "distill.cli", "train"]):
        done = subprocess.run(
            [sys.executable, *program, "--config", "recipes/debgu.yaml"],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
        )
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        ends.append((done.returncode, errors))
        assert "Traceback" not in done.stderr
    (code, (message,)), other = ends
    assert code == 2
    assert message.startswith("error: recipes/debgu.yaml: no such recipe file; did you mean 'debug.yaml'")
    assert other == (code, [message])


def test_train_refuses_several_gpus(monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert main(["train", "--config", "recipes/debug.yaml"]) == 2
    assert "accelerate launch --multi_gpu" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["verb", "train", "swap", "score"]),
        (["trian"], ["trian", "'train'"]),
        (["--colour"], ["--colour"]),
        (["swap"], ["FILE", "distill swap --help"]),
        (["swap", "-", "--wordlsit", "x"], ["--wordlsit"]),
        (["swap", "no-such-file.txt"], ["no-such-file.txt"]),
        (["swap", "."], [".", "cannot be read"]),
        (["swap", "-", "--wordlist", "english_gendre"], ["english_gendre", "'english_gender'"]),
        (["swap", "-", "--shift", "2"], ["--shift", "2 groups"]),
        (["swap", "-", "--shift", "one"], ["--shift", "'one'"]),
        (["score"], ["checkpoints"]),
        (["score", "x", "--samples", "many"], ["samples"]),
        (["score", "x", "--smaples", "2"], ["--smaples"]),
        (["score", "x", "--metrics", "perplexty"], ["perplexty", "'perplexity'"]),
        (["score", "x", "--texts", "no-such-file.txt"], ["no-such-file.txt"]),
        (["score", "./no-such-folder"], ["no-such-folder"]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value, list) else None,
)
def test_a_mistake_ends_with_one_sentence_and_code_2(arguments, words, capsys, monkeypatch):
    typed(monkeypatch, b"he\n")
    assert main(arguments) == 2
    shown = capsys.readouterr()
    (line,) = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert all(word in line for word in words), line
    assert "Traceback" not in shown.err
    assert not shown.out


def test_text_that_is_not_utf8_is_reported_with_its_line(monkeypatch, capfdbinary):
    typed(monkeypatch, b"he\nna\xefve\n")
    assert main(["swap", "-"]) == 2
    assert b"standard input, line 2: byte 0xef is not UTF-8" in capfdbinary.readouterr().err
