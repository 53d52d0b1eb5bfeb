"""The `distill` command: what each verb does, and what a user reads after a mistake."""

import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import REPOSITORY

import distill
from distill.cli import VERBS, main
from distill.models.generation import generate
from distill.scoring import continuations
from distill.text import swap_lines
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist

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
    assert len(examples) >= 2
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


LIGHT = [
    "main(['swap', sys.argv[0]])",
    "main(['swap', sys.argv[0], '--json'])",
    "main(['swap', sys.argv[0], '--show'])",
    "main(['wordlist', 'check', 'english_gender'])",
    "main(['wordlist', 'check', 'english_gender', '--text', sys.argv[0]])",
    "main(['wordlist', 'import', sys.argv[1], '--out', os.path.join(sys.argv[2], 'out.tsv')])",
    "main(['--help'])",
    "main(['train', '--help'])",
]


def test_quick_verbs_import_nothing_heavy(tmp_path):
    """One after the other in one process, which says after each what is there by then."""
    (tmp_path / "pairs.tsv").write_text("king\tqueen\nson\tdaughter\n", encoding="utf-8")
    arguments = [str(REPOSITORY / "README.md"), str(tmp_path / "pairs.tsv"), str(tmp_path)]
    code = f"import os, sys; sys.argv = {arguments!r}\nfrom distill.cli import main\n"
    for call in LIGHT:
        code += f"try:\n    assert {call} == 0\nexcept SystemExit:\n    pass\n"
        code += f"print('HEAVY', [m for m in {HEAVY} if m in sys.modules])\n"
    told = [line for line in run_python(code).splitlines() if line.startswith("HEAVY")]
    assert dict(zip(LIGHT, told, strict=True)) == dict.fromkeys(LIGHT, "HEAVY []")


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


LINES = "She told her father.\nNothing.\r\n\u201cHe saw the queen,\u201d he said."


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes(LINES.encode())
    return path


def test_swap_as_json_has_spans_that_rebuild_both_texts(lines, capsys):
    assert main(["swap", str(lines), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == LINES.splitlines()
    assert [row["counterfactual"] for row in rows] == [
        "He told his mother.",
        "Nothing.",
        "\u201cShe saw the king,\u201d she said.",
    ]
    for row in rows:
        rebuilt, position = "", 0
        for start, end, cf_start, cf_end in row["spans"]:
            rebuilt += row["text"][position:start] + row["counterfactual"][cf_start:cf_end]
            position = end
        assert rebuilt + row["text"][position:] == row["counterfactual"]
    assert [(len(row["spans"]), row["skipped"]) for row in rows] == [(3, 0), (0, 0), (3, 0)]


def test_swap_shows_edited_lines_side_by_side(lines, capsys):
    assert main(["swap", str(lines), "--show"]) == 0
    shown = capsys.readouterr().out
    assert all(
        word in shown for word in ("[She]", "[her]", "[father]", "[He]", "[his]", "[mother]", "[queen]", "[king]")
    )
    assert "Nothing" not in shown
    assert "2 of 3 lines edited" in shown


def test_swap_shows_control_characters_and_obeys_none(tmp_path, capsys):
    (tmp_path / "lines.txt").write_bytes(b"he \x1b[31m [bold]rang\x07[/bold]\n")
    assert main(["swap", str(tmp_path / "lines.txt"), "--show"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\\x1b[31m [bold]rang\\x07[/bold]" in shown


def test_swap_in_several_processes_is_the_same(tmp_path, monkeypatch, capfdbinary):
    monkeypatch.setattr(swap_lines, "_CHUNK_CHARACTERS", 50)
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{number} She told him {'again ' * (number % 7)}.\n" for number in range(60)))
    written = []
    for processes in ("1", "2"):
        assert main(["swap", str(path), "--num_proc", processes]) == 0
        written.append(capfdbinary.readouterr().out)
    assert written[0] == written[1]
    assert written[0].count(b"He told her") == 60


# --------------------------------------------------------------------------------------------------------- wordlist


def test_wordlist_check_lists_every_mistake_and_exits_with_2(tmp_path, capsys):
    path = tmp_path / "list.tsv"
    path.write_text("male\tfemale\nhe\nking\tqueen\nking\tprincess\n", encoding="utf-8")
    assert main(["wordlist", "check", str(path)]) == 2
    shown = capsys.readouterr()
    assert "line 2: the row has 1 of 2 words" in shown.out and "line 4: 'king' is paired here" in shown.out
    assert shown.err == f"error: {path}: 2 mistakes to mend, see above\n"
    path.write_text("male\tfemale\nhe\tshe\n", encoding="utf-8")
    (tmp_path / "text.txt").write_text("He saw her king.", encoding="utf-8")
    assert (
        main(["wordlist", "check", str(path), "--text", str(tmp_path / "text.txt"), "--tokenizer", "demo", "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["mistakes"] == [] and found["rows"] == 1
    assert found["coverage"]["documents"] == 1
    assert found["tokens"]["tokenizer"] == "demo" and found["tokens"]["one_token"]


def test_wordlist_check_of_a_list_with_mistakes_asks_for_no_tokenizer(tmp_path, capsys):
    path = tmp_path / "list.tsv"
    path.write_text("male\tfemale\nhe\n", encoding="utf-8")
    assert main(["wordlist", "check", str(path), "--tokenizer", "no/such-tokenizer"]) == 2
    shown = capsys.readouterr()
    assert "line 2: the row has 1 of 2 words" in shown.out and "no/such-tokenizer" not in shown.err


def test_wordlist_import_writes_a_list_that_checks(tmp_path, capsys):
    (tmp_path / "pairs.json").write_text('[["she", "he"], ["queen", "king"]]', encoding="utf-8")
    out = tmp_path / "out.tsv"
    arguments = ["wordlist", "import", str(tmp_path / "pairs.json"), "--out", str(out), "--groups", "female,male"]
    assert main(arguments) == 0
    assert [row.words for row in load_wordlist(out).rows] == [("she", "he"), ("queen", "king")]
    before = out.read_bytes()
    assert main(arguments) == 2
    assert str(out) in capsys.readouterr().err and out.read_bytes() == before
    assert main([*arguments, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 2


@pytest.fixture(scope="module")
def short_list(tmp_path_factory):
    """A file of words, which each example reads anew, and what swaps them."""
    path = tmp_path_factory.mktemp("lists") / "short.tsv"
    rows = ["male\tfemale\twhen", "he\tshe", "him\ther\tobject", "his\ther\tdeterminer", "his\thers\tpronoun"]
    path.write_text("\n".join(["# language: en", *rows, ""]), encoding="utf-8")
    return str(path), Swapper(load_wordlist(path))


@settings(max_examples=30, deadline=None)
@given(text=st.text(st.one_of(st.sampled_from("he sr\n\r\u2028\x85\x0b"), st.characters(exclude_categories=["Cs"]))))
def test_swap_keeps_the_lines_of_any_text(text, short_list):
    path, swapper = short_list
    with pytest.MonkeyPatch.context() as patch:
        typed(patch, text.encode())
        out = io.BytesIO()
        patch.setattr(sys, "stdout", SimpleNamespace(buffer=out, isatty=lambda: False))
        assert main(["swap", "-", "--wordlist", path]) == 0
    lines, swapped = text.encode().split(b"\n"), out.getvalue().split(b"\n")
    assert len(swapped) == len(lines)
    for before, after in zip(lines, swapped, strict=True):
        assert after.decode() == swapper.swap(before.decode()).text


def test_swap_ends_quietly_when_its_reader_leaves():
    command = f"yes he is a king | head -n 200000 | {sys.executable} -m distill.cli swap - | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.stdout, done.stderr) == ("she is a queen\n", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_fails_no_command(closed):
    command = f"{sys.executable} -m distill.cli wordlist check english_gender {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0 and not done.stderr


def test_results_are_written_in_any_encoding():
    """What it cannot write is escaped."""
    command = [sys.executable, "-m", "distill.cli", "swap", "--show", "-"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    given = "he is \u201ca king\u201d\n".encode()
    done = subprocess.run(command, input=given, capture_output=True, cwd=REPOSITORY, env=environment)
    assert done.returncode == 0 and b"\\u201c" in done.stdout, done.stderr


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


QUICK = ["--max_prompts", "5", "--samples", "1", "--max_new_tokens", "3", "--bootstrap", "20"]


def test_score_writes_scores_and_prints_a_table(checkpoint, tmp_path, capsys):
    texts = tmp_path / "held-out.txt"
    texts.write_text("The nurse said that she was late. The king saw the queen.\n" * 8, encoding="utf-8")
    arguments = ["score", checkpoint(1), "--against", checkpoint(0), "--texts", str(texts), *QUICK]
    assert main([*arguments, "--output_dir", str(tmp_path / "out")]) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    reference, scored = scores["models"]  # in this order, so that the difference is "scored - reference"
    assert f"{scored} - {reference}" in scores["differences"]
    assert scores["models"][scored]["perplexity"]["value"] > 1
    printed = capsys.readouterr().out
    assert "perplexity" in printed
    assert printed.splitlines()[-1] == str(tmp_path / "out" / "report.html")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for shown in (checkpoint(0), checkpoint(1), "tokens a second", f">{scored} / {reference}<"):
        assert shown in page
    assert (tmp_path / "out" / "report.md").read_text(encoding="utf-8").startswith("# Report: out\n")


def test_score_does_not_overwrite_another_report(checkpoint, tmp_path, capsys):
    (tmp_path / "report.html").write_text("of something else")
    assert main(["score", checkpoint(0), *QUICK, "--output_dir", str(tmp_path)]) == 2
    assert f"{tmp_path} holds a report of something else; choose another --output_dir" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "of something else"


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


def test_score_does_not_overwrite_other_scores(checkpoint, tmp_path, capsys):
    arguments = ["score", checkpoint(0), "--metrics", "next_word_disparity", *QUICK, "--output_dir", str(tmp_path)]
    assert main(arguments) == 0
    assert "rank correlations" not in capsys.readouterr().out  # not asked for
    before = (tmp_path / "scores.json").read_bytes()
    assert main([*arguments, "--batch_size", "3", "--correlate"]) == 0  # the same once more
    assert "no rank correlations" in capsys.readouterr().out
    assert main([*arguments, "--seed", "1"]) == 2
    assert f"{tmp_path} holds other scores (seed is 0 there, 1 here); choose another" in capsys.readouterr().err
    asked = json.loads((tmp_path / "asked.json").read_text(encoding="utf-8"))
    del asked["chat"], asked["context"]  # as of before there were these keys
    (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    assert main(arguments) == 0
    assert main(["score", checkpoint(1), *arguments[2:]]) == 2
    assert "holds other scores (checkpoints is" in capsys.readouterr().err
    assert (tmp_path / "scores.json").read_bytes() == before
    for damage in (lambda: (tmp_path / "asked.json").write_text("[" * 100_000), (tmp_path / "asked.json").unlink):
        damage()
        assert main(arguments) == 2
        assert "nothing says what it was made from" in capsys.readouterr().err


def test_score_takes_prompts_one_a_line(checkpoint, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"The nurse said that {i} \n\n" for i in range(6)), encoding="utf-8")
    arguments = ["score", checkpoint(0), "--metrics", "next_word_disparity", "--prompts", str(prompts)]
    assert main([*arguments, "--output_dir", str(tmp_path / "out")]) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    subjects = next(iter(scores["models"].values()))["next_word_disparity"]["details"]["subjects"]
    assert list(subjects) == [f"The nurse said that {i}" for i in range(6)]


def test_score_as_json_is_what_it_writes(checkpoint, tmp_path, capsys):
    arguments = ["score", checkpoint(0), "--metrics", "next_word_disparity", *QUICK, "--output_dir", str(tmp_path)]
    capsys.readouterr()  # saving the checkpoint may have printed something
    assert main([*arguments, "--json", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert "scoring" not in shown.err
    assert (tmp_path / "report.html").exists()


# --------------------------------------------------------------------------------------------------------- generate

GENERATE = ["--samples", "2", "--max_new_tokens", "8", "--quiet"]


def test_generate_gives_the_seeded_texts_of_every_checkpoint(checkpoint, toy_model, toy_tokenizer, tmp_path, capsys):
    (tmp_path / "more.txt").write_text("The king\n\nShe said \nnot this\n", encoding="utf-8")
    arguments = ["generate", checkpoint(1), "--against", checkpoint(0), "--prompt", "The nurse", "--seed", "5"]
    arguments += ["--prompts", str(tmp_path / "more.txt"), "--max_prompts", "2", "--json", *GENERATE]
    capsys.readouterr()  # saving the checkpoint may have printed something
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    prompts = ["The nurse", "The king", "She said"]
    assert [row["prompt"] for row in found["prompts"]] == prompts
    assert found["groups"] == ["male", "female"]
    for seed, name in enumerate(found["prompts"][0]["texts"]):
        wanted = generate(toy_model(seed=seed), toy_tokenizer, prompts, samples=2, max_new_tokens=8, seed=5)
        assert [[sample["text"] for sample in row["texts"][name]] for row in found["prompts"]] == wanted


def test_generate_marks_words_by_group_where_they_stand(checkpoint, tmp_path, capsys, monkeypatch):
    def sampled(*_, **__):
        print("a library's remark")
        return [[" that SHE saw her king\x1b[2J."]]

    monkeypatch.setattr(continuations, "generate", sampled)
    arguments = ["generate", checkpoint(0), "--prompt", "His nurse said", "--json"]
    capsys.readouterr()  # saving the checkpoint may have printed something
    assert main(arguments) == 0
    (row,) = json.loads(capsys.readouterr().out)["prompts"]
    assert row["words"] == [[0, 3, 0]]
    ((sample,),) = row["texts"].values()
    words = [(sample["text"][start:end], group) for start, end, group in sample["words"]]
    assert words == [("SHE", 1), ("her", 1), ("king", 0)]
    assert main(arguments[:-1]) == 0  # no terminal here: plain text, a line for each
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "[male: His] nurse said"
    assert shown[1].partition(":")[2] == " that [female: SHE] saw [female: her] [male: king]\\x1b[2J."


# ------------------------------------------------------------------------------------------------------- completion


@pytest.fixture(scope="module")
def completed(tmp_path_factory):
    """A function from the words of a command line to what bash offers for the last one."""
    script = tmp_path_factory.mktemp("completion") / "distill.bash"
    script.write_text(run_python("from distill.cli import main; main(['completion', 'bash'])"), encoding="utf-8")
    ask = """source "$1"; shift
    [[ $(complete -p distill) =~ -F\\ ([^ ]+) ]]
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
    "${BASH_REMATCH[1]}" distill "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    printf '%s\\n' "${COMPREPLY[@]}" """

    def complete(*words: str) -> list[str]:
        command = ["bash", "--norc", "-c", ask, "ask", str(script), "distill", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
        assert done.stderr == ""
        return done.stdout.split()

    return complete


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tr"], ["train"]),
        (["wordlist", ""], ["check", "import"]),
        (["wordlist", "check", "--text_"], ["--text_column"]),
        (["wordlist", "import", "--format", ""], ["auto", "parallel", "tab", "json"]),
        (["train", "--target.re"], ["--target.reverse_roles"]),
        (["train", "--config", "recipes/gpt2."], ["recipes/gpt2.yaml"]),
        (["score", "--max_"], ["--max_prompts", "--max_new_tokens", "--max_length"]),
        (["generate", "--ag"], ["--against"]),
        (["swap", "READM"], ["README.md"]),
        (["swap", "--dataset", "READM"], ["README.md"]),
        (["swap", "--to", "reci"], ["recipes"]),
        (["report", "reci"], ["recipes"]),
        (["demo", "reci"], ["recipes"]),
        (["completion", "f"], ["fish"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bash_completes_verbs_options_and_paths(words, offered, completed):
    assert completed(*words) == offered


def test_bash_completes_every_verb(completed):
    assert set(VERBS) <= set(completed(""))


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_verb_and_option(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in (*VERBS, "reverse_roles", "max_new_tokens", "num_proc"))


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


def test_train_prints_its_scores_for_machines(monkeypatch, tmp_path, capsys):
    def run(recipe):
        print("a library's remark")
        (tmp_path / "scores.json").write_text('{"models": {}}\n', encoding="utf-8")
        return {"models": {}}

    monkeypatch.setattr("distill.pipeline.run", run)
    arguments = ["train", "--config", "recipes/debug.yaml", "--output_dir", str(tmp_path)]
    assert main([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"models": {}}
    assert "remark" in printed.err
    assert main(arguments) == 0
    assert capsys.readouterr().out == "a library's remark\n"


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [(["train", "--config", "recipes/debug.yaml"], "accelerate launch --multi_gpu"), (["study", "study"], "name one")],
)
def test_several_gpus_are_refused_at_once(monkeypatch, capsys, arguments, instead):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: CUDA_VISIBLE_DEVICES is 0,1, but ") and instead in told
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "2,3")
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: HIP_VISIBLE_DEVICES is 2,3, but ")


@pytest.mark.parametrize(("given", "taken"), [(None, "0"), ("3", "3"), ("", "")])
def test_rows_of_a_study_inherit_one_gpu(monkeypatch, capsys, given, taken):
    """Of several, which a row would see too, none could train: it ended behind the text of all seeds."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given or "")
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("distill.study.run.run_study", lambda *_: {"seen": os.environ["CUDA_VISIBLE_DEVICES"]})
    assert main(["study", "study", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"seen": taken}
    assert "HIP_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")  # so that it is taken back
    monkeypatch.delenv("HIP_VISIBLE_DEVICES")
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "4,5,6,7")  # as SLURM tells of AMD's: torch would count these
    assert main(["study", "study", "--json"]) == 0
    assert os.environ["HIP_VISIBLE_DEVICES"] == taken


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
        (["swap", "-", "--num_proc", "0"], ["--num_proc", "1 or more"]),
        (["swap", "-", "--num_proc", "2", "--resolver", "teacher"], ["--num_proc", "'teacher'"]),
        (["swap", "-", "--resolver", "log-linear"], ["log-linear", "'log_linear'"]),
        (["swap", "-", "--show", "--json"], ["--json", "--show"]),
        (["swap", "--dataset", "x", "--to", "y", "--json"], ["--json goes with FILE"]),
        (["swap", "--dataset", "x", "--to", "y", "--show"], ["--show goes with FILE"]),
        (["swap", "--dataset", "x", "--to", "."], ["--to is .", "made"]),
        (["swap", "--dataset", "x", "--to", __file__], ["--to is", "is a file"]),
        (["export", "demo", "--to", "gguf", "--output", ".."], ["--output is ..", "made"]),
        (["demo", "x", "--export", "./"], ["--export is ./", "made"]),
        (["wordlist"], ["VERB", "distill wordlist --help"]),
        (["wordlist", "chekc", "x"], ["'chekc'", "check"]),
        (["wordlist", "check", "no-such-list"], ["no-such-list"]),
        (["wordlist", "check", "english_gender", "--text", "nothing.txt"], ["nothing.txt"]),
        (["wordlist", "check", "english_gender", "--tokenizer", "./nowhere"], ["nowhere"]),
        (["wordlist", "import", "no-such-file", "--out", "x.tsv"], ["no-such-file"]),
        (["wordlist", "import", "no-such-file"], ["--out"]),
        (["generate"], ["CHECKPOINT", "distill generate --help"]),
        (["generate", "demo"], ["--prompt TEXT", "--prompts FILE"]),
        (["generate", "demo", "--prompts", "no-such-file.txt"], ["no-such-file.txt"]),
        (["generate", "demo", "--prompt", "x", "--samples", "0"], ["--samples", "1 or more"]),
        (["generate", "demo", "--prompt", "x", "--temperature", "0"], ["temperature", "above 0"]),
        (["generate", "demo", "--prompt", "x", "--top_p", "1.5"], ["top_p", "1.5"]),
        (["generate", "demo", "--prompt", "x", "--max_new_tokens", "999"], ["max_new_tokens", "context"]),
        (["generate", "./nowhere", "--prompt", "x"], ["nowhere"]),
        (["completion", "csh"], ["'csh'", "bash", "zsh", "fish"]),
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


@pytest.mark.parametrize(
    ("checkpoint", "folder"),
    [(".", "student-gguf"), ("../student/", "student-gguf"), ("..", "run-gguf"), ("alice/small", "small-gguf")],
)
def test_an_export_lies_beside_its_model_whatever_it_is_called_by(tmp_path, monkeypatch, capsys, checkpoint, folder):
    from distill.scoring import export

    at = tmp_path / "run" / "student"
    at.mkdir(parents=True)
    monkeypatch.chdir(at)
    monkeypatch.setattr(export, "export", lambda source, to, folder, **_: SimpleNamespace(line=lambda: "checked"))
    assert main(["export", checkpoint, "--to", "gguf"]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    beside = {"student-gguf": at.parent, "run-gguf": tmp_path, "small-gguf": at}[folder]
    assert (at / told).resolve() == beside / folder
