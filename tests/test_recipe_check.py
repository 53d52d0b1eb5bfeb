"""The command line and a recipe's settings: what a user gets wrong, and what is asked for without torch."""

import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from shared import REPOSITORY
from transformers import TrainingArguments

from distill.base.errors import UserError
from distill.metrics import chosen
from distill.recipe import write_recipe
from distill.recipe_check import parse_recipe, recipe_of
from distill.training.arguments import training_arguments
from distill.training.trainer_keys import OWN_KEYS


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_file_then_overrides(tmp_path):
    path = write(
        tmp_path / "r.yaml",
        "seed: 3\ntarget: {op: max, strength: 0.5}\ncorpus: {max_documents: 5}\nheld_out: {max_documents: 5}\n",
    )
    recipe = parse_recipe(["--config", path, "--target.strength", "0.25", "--trainer.max_steps", "7"])
    assert (recipe.seed, recipe.target.op, recipe.target.strength) == (3, "max", 0.25)
    assert recipe.trainer == {"max_steps": 7}


def test_a_second_recipe_is_laid_over_the_first_key_by_key_and_options_over_both(tmp_path):
    over = write(tmp_path / "r.yaml", "target: {strength: 0.25}\ntrainer: {max_steps: 600}\n")
    quickstart = str(REPOSITORY / "recipes/quickstart.yaml")
    first = parse_recipe(["--config", quickstart])
    second = parse_recipe(["--trainer.bf16", "false", "--config", quickstart, "--seed", "5", f"--config={over}"])
    assert second.trainer == {**first.trainer, "max_steps": 600, "bf16": False} and len(first.trainer) > 2
    assert second.target == replace(first.target, strength=0.25) and second.seed == 5
    write(tmp_path / "r.yaml", "target: {augment: 1}\n")
    with pytest.raises(UserError, match=re.escape(f"{quickstart} and {over}: key 'target.augment' is 1")):
        parse_recipe(["--config", quickstart, "--config", over])


@pytest.mark.parametrize("name", ["🧪", "𠮷野", "e\u0301\u2028\x85\x7f", "\\ud83e", '"\\"'])
def test_a_recipe_may_hold_any_character(tmp_path, name):
    """What YAML writes is read again, by name, in a notebook and from the file that a run writes."""
    text = yaml.safe_dump({"output_dir": name, "corpus": {"max_documents": 5}, "held_out": {"max_documents": 5}})
    given = parse_recipe(["--config", write(tmp_path / "r.yaml", text)])
    assert given.output_dir == name == parse_recipe(["--config", "quickstart", "--output_dir", name]).output_dir
    assert recipe_of(given.to_dict(), "a notebook") == given
    write_recipe(given, tmp_path / "written.yaml")
    assert parse_recipe(["--config", str(tmp_path / "written.yaml")]) == given


@pytest.mark.parametrize("value", ["1e3", "1000.0", "'1000'", "1000"])
def test_whole_numbers_may_be_written_in_any_way(tmp_path, value):
    text = (
        SAMPLED + f"corpus: {{max_documents: 5, pack: while_training}}\ntrainer: {{max_steps: {value}, use_cpu: true}}"
    )
    recipe = parse_recipe(["--config", write(tmp_path / "r.yaml", text.partition("\n")[2])])
    steps = training_arguments(recipe, tmp_path).max_steps
    assert steps == 1000 and type(steps) is int
    given = parse_recipe(["--config", "debug", "--trainer.max_steps", value.strip("'")])
    told = training_arguments(given, tmp_path)
    assert type(told.max_steps) is int


def test_print_config_shows_the_merged_recipe(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_recipe(["--config", str(REPOSITORY / "recipes/debug.yaml"), "--seed", "9", "--print_config"])
    assert stop.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["seed"] == 9
    assert shown["trainer"]["max_steps"] == 10  # of debug.yaml
    assert shown["target"]["reverse_roles"] is True  # of its base


SAMPLED = "corpus: {max_documents: 5}\nheld_out: {max_documents: 5}\n"
PRIVATE = "corpus: {source: files, files: [a.txt]}\nheld_out: {max_documents: 5}\nprivacy: {epsilon: 8}\n"


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("sede: 1", [], ["r.yaml", "'sede'", "'seed'"]),
        ("target: {opp: max}", [], ["target.opp", "'op'"]),
        ("target: max", [], ["target", "keys of its own"]),
        ("seed: [1", [], ["r.yaml", "line", "YAML"]),
        ("seed: 2020-01-01", [], ["r.yaml", "date", "quotes"]),
        ("seed: 2020-13-45", [], ["r.yaml", "number or date that is none", "quotes"]),
        ("seed: " + "9" * 5000, [], ["r.yaml", "number or date that is none", "quotes"]),
        ("trainer: {a: !!set {b}}", [], ["r.yaml", "set"]),
        ("seed: " + "1" * 2_000_000, [], ["r.yaml", "longer"]),
        ("- 1", [], ["r.yaml", "list"]),
        ("base: r.yaml", [], ["base"]),
        ("base: absent.yaml", [], ["r.yaml", "key 'base'", "absent.yaml", "no file"]),
        (SAMPLED + "target: {op: expmeen}", [], ["target.op", "expmeen", "'expmean'"]),
        (SAMPLED + "target: {op: max, strength: 1.5}", [], ["target.strength", "1.5", "[0, 1]"]),
        (SAMPLED + "target: {op: max, strength: -0.1}", [], ["target.strength", "-0.1"]),
        (SAMPLED + "target: {op: max, strength: .nan}", [], ["target.strength"]),
        (SAMPLED + "target: {reverse_roles: true}", [], ["reverse_roles", "target.op"]),
        (SAMPLED + "target: {op: mean}\nloss: {kd: 0, ce: 1}", [], ["target.op is mean", "loss.kd", "loss.listed"]),
        (SAMPLED + "loss: {divergence: kl}", [], ["loss.divergence", "forward_kl"]),
        (SAMPLED + "loss: {temperature: 0}", [], ["loss.temperature"]),
        (SAMPLED + "loss: {kd: 0}", [], ["kd", "ce"]),
        (SAMPLED + "loss: {kd: -1}", [], ["loss.kd", "negative"]),
        (SAMPLED + "loss: {kd: 0, listed: 1}", [], ["kd, ce and hidden are 0"]),
        (
            SAMPLED + "teacher: {path: null}\nloss: {kd: 0, ce: 1, listed: 1}",
            [],
            ["teacher.path is null", "loss.listed must be 0"],
        ),
        (SAMPLED + "trainer: {max_stepz: 1}", [], ["trainer", "max_stepz", "'max_steps'"]),
        (SAMPLED + "trainer: {seed: 1}", [], ["trainer.seed", "'seed'"]),
        (SAMPLED + "trainer: {learning_rate: abc}", [], ["trainer.learning_rate", "'abc'", "number"]),
        (SAMPLED + "trainer: {max_steps: a}", [], ["trainer.max_steps", "'a'", "number"]),
        (SAMPLED + "trainer: {warmup_steps: .nan}", [], ["trainer.warmup_steps", "number"]),
        (SAMPLED, ["--seed", "-1"], ["seed is -1", "at least 0"]),
        (SAMPLED, ["--seed", str(2**32)], ["seed is 4294967296", "at most 4294967295"]),
        (SAMPLED + "scores: {metrics: [perplexitty]}", [], ["perplexitty", "'perplexity'"]),
        (SAMPLED, ["--scores.context", "1"], ["scores.context is 1", "at least 2 tokens"]),
        (SAMPLED, ["--scores.samples", "-1"], ["scores.samples is -1", "at least 1 continuation"]),
        (SAMPLED, ["--scores.max_prompts", "0"], ["scores.max_prompts is 0", "at least 1; null: all"]),
        (SAMPLED, ["--scores.max_new_tokens", "0"], ["scores.max_new_tokens is 0", "at least 1 token"]),
        (SAMPLED, ["--scores.max_length", "1"], ["scores.max_length is 1", "at least 2 tokens"]),
        (SAMPLED, ["--scores.top_k", "-1"], ["scores.top_k is -1", "0 for all"]),
        (SAMPLED, ["--scores.batch_size", "0"], ["scores.batch_size is 0"]),
        (SAMPLED, ["--scores.bootstrap", "-5"], ["scores.bootstrap is -5", "0 for no intervals"]),
        (SAMPLED, ["--scores.stride", "0"], ["scores.stride is 0", "half of the context"]),
        (SAMPLED, ["--scores.temperature", "0"], ["scores.temperature is 0", "above 0", "top_k"]),
        (SAMPLED + "scores: {temperature: .nan}", [], ["scores.temperature", "NaN"]),
        (SAMPLED, ["--scores.top_p", "1.5"], ["scores.top_p is 1.5", "at most 1"]),
        (SAMPLED, ["--corpus.sample_batch_size", "0"], ["corpus.sample_batch_size is 0", "at least 1"]),
        (SAMPLED, ["--held_out.sample_tokens", "0"], ["held_out.sample_tokens is 0", "at least 1"]),
        (SAMPLED, ["--corpus.sample_temperature", "0"], ["corpus.sample_temperature is 0", "above 0"]),
        (SAMPLED, ["--held_out.sample_top_p", "1.5"], ["held_out.sample_top_p is 1.5", "at most 1"]),
        ("corpus: {source: teacher}", [], ["corpus.max_documents"]),
        ("corpus: {source: files}", [], ["corpus.files"]),
        ("corpus: {source: hub}", [], ["corpus.dataset"]),
        ("base: ''", [], ["'' is a folder", "YAML file"]),
        ("base: .", [], ["'.' is a folder"]),
        (SAMPLED[:-2] + ", document_start: '('}", [], ["held_out.document_start", "regular expression"]),
        (SAMPLED + "teacher: {path: null}", [], ["teacher.path"]),
        (SAMPLED + "student: {init: config}", [], ["model_type"]),
        (SAMPLED + "student: {init: checkpoint}", [], ["student.path"]),
        (SAMPLED + "student: {init: checkpoint, path: s, num_layers: 2}", [], ["student.num_layers has no effect"]),
        (SAMPLED + "student: {init: checkpoint, path: s, layers: [0]}", [], ["student.layers has no effect"]),
        (SAMPLED + "student: {layers: [0], num_layers: 2}", [], ["student.num_layers and student.layers"]),
        (SAMPLED + "student: {path: s}", [], ["student.path has no effect", "init to checkpoint"]),
        (
            "corpus: {source: files, files: [a.txt]}\nheld_out: {max_documents: 5}\nteacher: {path: null}\n"
            "loss: {kd: 0, ce: 1}\nstudent: {init: checkpoint, path: s}",
            [],
            ["held_out.source is teacher", "teacher.path is null"],
        ),
        (
            "corpus: {max_documents: 5, pack: while_training}\nheld_out: {max_documents: 5}\ntrainer: {max_steps: 0}",
            [],
            ["trainer.max_steps is missing"],
        ),
        (SAMPLED + "teacher: {quantization: int8}", [], ["quantization is int8", "student.init is layers"]),
        (SAMPLED + "teacher: {quantization: nf4, gguf_file: a.gguf}", [], ["teacher.gguf_file", "already"]),
        (SAMPLED + "student: {init: teacher}", [], ["student.init is teacher", "student.lora.r"]),
        (
            SAMPLED + "student: {lora: {r: 4}}",
            [],
            ["student.lora.r is 4", "student.init: layers", "teacher or checkpoint"],
        ),
        (SAMPLED + "student: {lora: {alpha: 4}}", [], ["student.lora.r is 0"]),
        (SAMPLED + "loss: {pairing: 0.5}", [], ["loss.pairing is 0.5", "set target.augment to true"]),
        (SAMPLED + "loss: {pairing: -1}\ntarget: {augment: true}", [], ["loss.pairing is -1", "not be negative"]),
        (
            PRIVATE + "loss: {pairing: 1}\ntarget: {augment: true}",
            [],
            ["privacy.epsilon and loss.pairing", "leave one of the two out"],
        ),
        (SAMPLED + "student: {remove_directions: -1}", [], ["student.remove_directions is -1", "0 for none"]),
        (
            SAMPLED + "student: {init: teacher, remove_directions: 1, lora: {r: 4}}",
            [],
            ["student.remove_directions is 1", "student.lora.r"],
        ),
        (
            SAMPLED + "student: {remove_directions: 1}\ntrainer: {max_steps: 1}",
            ["--corpus.pack", "while_training"],
            ["student.remove_directions is 1", "corpus.pack is while_training"],
        ),
        (PRIVATE + "student: {remove_directions: 1}", [], ["student.remove_directions is 1", "privacy.epsilon is set"]),
        (
            SAMPLED + "student: {remove_directions: 1}\nfederation: {clients: 2}",
            [],
            ["student.remove_directions is 1", "federation.clients is set"],
        ),
        (SAMPLED + "privacy: {clip: 2.0}", [], ["privacy.epsilon is null", "no effect"]),
        (SAMPLED + "privacy: {epsilon: 8}", [], ["corpus.source is teacher", "sampled", "files or hub"]),
        (PRIVATE, ["--privacy.epsilon", "0"], ["privacy.epsilon is 0", "null"]),
        (PRIVATE, ["--privacy.epsilon", ".inf"], ["option --privacy.epsilon is inf", "finite number"]),
        (PRIVATE, ["--privacy.clip=.inf"], ["option --privacy.clip is inf", "finite number"]),
        (SAMPLED, ["--scores.temperature", ".nan"], ["option --scores.temperature is nan", "finite number"]),
        (PRIVATE + "# in a file\nscores: {temperature: .inf}", [], ["scores.temperature", "Infinity"]),
        (PRIVATE + "scores: {temperature: 1e999}", [], [".yaml: key 'scores.temperature' is inf", "finite number"]),
        (PRIVATE + f"scores: {{temperature: {'9' * 400}}}", [], [".yaml: a whole number of hundreds of digits"]),
        (PRIVATE, ["--privacy.delta", "1"], ["privacy.delta is 1", "probability"]),
        (PRIVATE, ["--privacy.clip", "0"], ["privacy.clip is 0"]),
        (PRIVATE, ["--privacy.batch_size", "0"], ["privacy.batch_size is 0"]),
        (PRIVATE, ["--privacy.weights", "head"], ["privacy.weights", "body, all"]),
        (PRIVATE, ["--corpus.pack", "while_training", "--trainer.max_steps", "9"], ["corpus.pack is while_training"]),
        (PRIVATE, ["--on_nonfinite", "skip"], ["on_nonfinite is skip", "epsilon does not cover"]),
        (PRIVATE + "teacher: {shard: true}", [], ["privacy.epsilon and teacher.shard", "equally often"]),
        (PRIVATE + "student: {init: checkpoint, path: s, lora: {r: 4}}", [], ["privacy.epsilon and student.lora.r"]),
        (
            PRIVATE.replace("max_documents: 5", "source: files, files: [b.txt]")
            + "teacher: {path: null}\nloss: {kd: 0, ce: 1}\n"
            "student: {init: config, config: {model_type: gpt2}, tokenizer: train}",
            [],
            ["student.tokenizer is train", "epsilon does not cover"],
        ),
        (SAMPLED + "student: {init: teacher, lora: {r: -1}}", [], ["student.lora.r is -1"]),
        (SAMPLED + "student: {init: teacher, lora: {r: 2, dropout: 1}}", [], ["student.lora.dropout is 1"]),
        (SAMPLED + "student: {init: teacher, lora: {r: 2, alpha: 0}}", [], ["student.lora.alpha is 0"]),
        (SAMPLED + "student: {init: teacher, lora: {r: 2, targets: []}}", [], ["student.lora.targets is empty"]),
        (SAMPLED + "student: {init: teacher, lora: {r: 2}}\nteacher: {shard: true}", [], ["teacher.shard"]),
        (SAMPLED + "student: {init: teacher, lora: {r: 2}}\nteacher: {allow_pickle: true}", [], ["student.lora.merge"]),
        (
            SAMPLED + "student: {init: teacher, lora: {r: 2}}\nteacher: {gguf_file: a.gguf}",
            [],
            ["student.lora.merge", "the GGUF file a.gguf"],
        ),
        (SAMPLED + "block_length: 2", [], ["block_length"]),
        (SAMPLED, ["--target.opp", "max"], ["--target.opp", "--target.op"]),
        (SAMPLED, ["--traget.op", "max"], ["--traget.op", "--target.op"]),
        (SAMPLED, ["--seed", "one"], ["seed", "one"]),
        (SAMPLED, ["--config"], ["--config"]),
    ],
)
def test_a_mistake_is_one_sentence_that_names_it(tmp_path, text, arguments, words):
    path = write(tmp_path / "r.yaml", text)
    with pytest.raises(UserError) as error:
        recipe = parse_recipe(["--config", path, *arguments])
        # What only the libraries know, in the order in which `pipeline.run` asks.
        training_arguments(recipe, tmp_path)
        chosen(recipe.scores.metrics, "scores.metrics")
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_an_adapter_over_a_gguf_file_is_merged(tmp_path):
    """Its settings could name the file's folder alone, so that it would be loaded over nothing, or another model."""
    texts = {"corpus": {"max_documents": 5}, "held_out": {"max_documents": 5}}
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "base.gguf").touch()

    def check(name, merge=False, **keys):
        student = {"init": "checkpoint", "path": str(tmp_path / name), "lora": {"r": 2, "merge": merge}}
        recipe_of(texts | {"student": student} | keys, "it")

    with pytest.raises(
        UserError, match=r"^student\.lora\.merge is false, .* GGUF file .*base\.gguf.*; set it to true$"
    ):
        check("base.gguf")
    check("base.gguf", merge=True)
    check("folder.gguf", teacher={"gguf_file": "a.gguf"})  # the teacher is not its base
    recipe_of(texts | {"student": {"init": "checkpoint", "path": str(tmp_path / "base.gguf")}}, "it")


def test_missing_file_suggests_a_neighbour(tmp_path):
    write(tmp_path / "quickstart.yaml", "")
    with pytest.raises(UserError, match=r"did you mean 'quickstart\.yaml'"):
        parse_recipe(["--config", str(tmp_path / "quikstart.yaml")])


def test_settings_that_the_run_decides_cannot_be_set_twice():
    assert set(OWN_KEYS) <= {f.name for f in fields(TrainingArguments)}


QUICK = [
    (["--help"], 0),
    (["--config", "recipes/quickstart.yaml", "--print_config"], 0),
    (["--config", "recipes/quickstart.yaml", "--target.strenght", "1"], 2),
    (["--config", "recipes/quickstart.yaml", "--target.op", "expmeen"], 2),
    (["--config", "recipes/quikstart.yaml"], 2),
]


def test_help_and_a_typo_need_no_torch():
    """All in one process; with torch each would take six seconds of a processor's time instead of a fifth of one."""
    code = "import sys\nfrom distill.cli import main\n"
    for arguments, _ in QUICK:
        code += f"try:\n    code = main({['train', *arguments]!r})\nexcept SystemExit as end:\n    code = end.code\n"
        code += "print('ended:', code, {'torch', 'transformers', 'accelerate', 'datasets'} & sys.modules.keys())\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    told = [line for line in done.stdout.splitlines() if line.startswith("ended:")]
    assert told == [f"ended: {code} set()" for _, code in QUICK], done.stderr


def test_a_token_of_the_hub_is_refused_wherever_it_comes_from():
    for values in ({"trainer": {"hub_token": "secret"}}, {"teacher": {"path": "hf_" + "a" * 30}}):
        with pytest.raises(UserError, match="holds a token of the model hub"):
            recipe_of(values, "the notebook")


@pytest.mark.parametrize("path", ["github_tokens/mine", "my_hub_tokens", "outputs/hf_gpt2mediumdistilled", "hf_hub"])
def test_a_path_that_only_looks_like_a_token_is_a_path(path):
    sampled = {"corpus": {"max_documents": 5}, "held_out": {"max_documents": 5}}
    assert recipe_of({"output_dir": path, **sampled}, "it").output_dir == path


def test_a_notebook_may_give_paths_but_nothing_that_no_recipe_holds(tmp_path):
    sampled = {"corpus": {"max_documents": 5}, "held_out": {"max_documents": 5}}
    assert recipe_of({"output_dir": tmp_path / "run", **sampled}, "it").output_dir == str(tmp_path / "run")
    with pytest.raises(UserError, match=r"it: .* is no value of a recipe"):
        recipe_of({"output_dir": object(), **sampled}, "it")


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("target.strength", "abc", "a number"),
        ("seed", "x", "a whole number"),
        ("baseline", "maybe", "true or false"),
        ("corpus.source", "fils", "one of teacher, files, hub"),
        ("corpus.max_documents", "many", "a whole number or null"),
        ("scores.metrics", "perplexity", "a list of texts in brackets"),
        ("student.layers", "[1, 'a']", "a list of whole numbers in brackets or null"),
        ("trainer", "3", None),
        ("target", "3", None),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_in_words(option, value, wanted, tmp_path):
    """Of an option, it names the option; of a key in a file, the file and the key; and no class of Python's."""
    with pytest.raises(UserError) as told:
        parse_recipe(["--config", "quickstart", f"--{option}", value])
    assert "class" not in str(told.value) and "Parser" not in str(told.value)
    assert f"--{option}" in str(told.value)
    if wanted is None:
        return
    assert str(told.value).startswith(f"option --{option} is {value}, but must be {wanted}; ")
    section, _, key = option.rpartition(".")
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: quickstart\n{section}: {{{key}: {value}}}\n" if section else f"{key}: {value}\n")
    with pytest.raises(UserError) as told:
        parse_recipe(["--config", str(path)])
    assert str(told.value).startswith(f"{path}: key '{option}' is {value}, but must be {wanted}; ")


def test_a_recipe_goes_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_recipe(["--config", "debug"]) == parse_recipe(["--config", str(REPOSITORY / "recipes/debug.yaml")])
    (tmp_path / "mine.yaml").write_text("base: ablation/max\nseed: 3\n")
    assert parse_recipe(["--config=mine.yaml"]).target.op == "max"
    with pytest.raises(
        UserError, match=r"recipes/debug.yaml: no such recipe file; the one .* by its name, debug, from"
    ):
        parse_recipe(["--config", "recipes/debug.yaml"])
    with pytest.raises(UserError, match="`distill recipes` lists; did you mean 'quickstart'"):
        parse_recipe(["--config", "quikstart"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("federation: {rounds: 5}", ["federation.clients is 0", "how many"]),
        ("federation: {clients: -1}", ["federation.clients is -1"]),
        ("federation: {clients: 4, rounds: 0}", ["federation.rounds is 0"]),
        ("federation: {clients: 4, periods: 4}", ["federation.periods is 4", "3 rounds"]),
        ("federation: {clients: 4, fraction: 0}", ["federation.fraction is 0"]),
        ("federation: {clients: 4, min_fraction: 1.5}", ["federation.min_fraction is 1.5"]),
        ("federation: {clients: 4, deadline: 0}", ["federation.deadline is 0"]),
        ("federation: {clients: 4, mu: 0.5}", ["federation.mu is 0.5", "prox"]),
        ("federation: {clients: 4, algorithm: prox, mu: -1}", ["federation.mu is -1"]),
        ("federation: {clients: 4, server: {lr: 1}}", ["federation.server", "opt"]),
        ("federation: {clients: 4, algorithm: opt, server: {momentum: 1}}", ["federation.server.momentum is 1"]),
        ("federation: {clients: 4, algorithm: opt, server: {tau: 0}}", ["federation.server.tau is 0"]),
        ("federation: {clients: 4, partition: {alpha: 0}}", ["federation.partition.alpha is 0"]),
        ("federation: {clients: 4, partition: {alpha: 1.0e+308}}", ["alpha is 1e+308", "at most 1,000,000,"]),
        ("federation: {clients: 4, partition: {alpha: 1000001}}", ["federation.partition.alpha is 1000001"]),
        ("federation: {clients: 1000001}", ["federation.clients is 1000001", "at most 1,000,000: one process"]),
        ("federation: {clients: 4, partition: {by: cluster, clusters: 1}}", ["federation.partition.clusters is 1"]),
        (
            "federation: {clients: 4, partition: {clusters: 3}}",
            ["partition.clusters is 3", "partition.by is quantity", "to cluster, or drop clusters"],
        ),
        (
            "federation: {clients: 4, partition: {by: label, clusters: 3}}",
            ["partition.clusters is 3", "partition.by is label"],
        ),
        (
            "federation: {clients: 4, partition: {label: corpus}}",
            ["partition.label is corpus", "partition.by is quantity", "to label, or drop label"],
        ),
        (
            "federation: {clients: 4, partition: {by: cluster, label: corpus}}",
            ["partition.label is corpus", "partition.by is cluster"],
        ),
        (
            "federation: {clients: 4, algorithm: opt, server: {optimizer: sgd, tau: 0.1}}",
            ["server.tau is 0.1", "server.optimizer is sgd", "to adam, or drop tau"],
        ),
        (
            "federation: {clients: 4, algorithm: opt, server: {optimizer: sgd, beta2: 0.9}}",
            ["server.beta2 is 0.9", "server.optimizer is sgd", "drop beta2"],
        ),
        ("federation: {clients: 4, partition: {by: label, label: corpus}}", ["corpus.label is missing"]),
        ("federation: {clients: 4}\ntrainer: {max_steps: 5}", ["trainer.max_steps is 5", "-1", "local_steps"]),
        ("federation: {clients: 4}\ntrainer: {num_train_epochs: 2}", ["trainer.num_train_epochs is 2", "leave it out"]),
        ("federation: {clients: 4}\ntrainer: {report_to: wandb}", ["trainer.report_to is wandb"]),
        (
            "federation: {clients: 4}\nprivacy: {epsilon: 8}\ncorpus: {source: files, files: [a]}",
            ["privacy.delta is null", "1 / the documents"],
        ),
        (
            "federation: {clients: 4, algorithm: prox}\nprivacy: {epsilon: 8, delta: 1.0e-4}\n"
            "corpus: {source: files, files: [a]}",
            ["federation.algorithm is prox", "avg or opt"],
        ),
        (
            "federation: {clients: 4, client_metrics: [perplexity]}\nprivacy: {epsilon: 8, delta: 1.0e-4}\n"
            "corpus: {source: files, files: [a]}",
            ["federation.client_metrics and privacy.epsilon", "leave client_metrics out"],
        ),
        ("corpus: {label: author, max_documents: 5}", ["corpus.label", "files"]),
        ("held_out: {label: author, max_documents: 5}", ["held_out.label"]),
        ("corpus: {source: files, files: [a], label: x, document_start: y}", ["corpus.label", "document_start"]),
    ],
)  # fmt: skip
def test_a_federation_that_cannot_be(tmp_path, text, words):
    values = {"corpus": {"max_documents": 5}, "held_out": {"max_documents": 5}}
    for key, value in yaml.safe_load(text).items():
        values[key] = {**values.get(key, {}), **value}
    with pytest.raises(UserError) as mistake:
        recipe_of(values, "r.yaml")
    for word in words:
        assert word in str(mistake.value)


@pytest.mark.parametrize(
    "federation",
    [
        {"clients": 1_000_000, "partition": {"alpha": 1e6}},
        {"partition": {"alpha": 5e-324}},
        {"partition": {"by": "label"}},
        {"partition": {"by": "cluster", "clusters": 3}},
        {"algorithm": "opt", "server": {"optimizer": "sgd", "momentum": 0.5}},
        {"algorithm": "opt", "server": {"beta2": 0.9, "tau": 0.1}},
        {"select": "activity"},
    ],
)
def test_what_a_federation_may_say_is_read_again_with_all_defaults(federation):
    """A resolved recipe names the keys without effect too, each with its default."""
    values = {"corpus": {"max_documents": 5}, "held_out": {"max_documents": 5}}
    recipe = recipe_of({**values, "federation": {"clients": 4, **federation}}, "r.yaml")
    assert recipe_of(recipe.to_dict(), "recipe.yaml") == recipe


def test_a_federation_of_a_recipe_that_had_steps():
    values = {"corpus": {"max_documents": 5}, "held_out": {"max_documents": 5}, "trainer": {"max_steps": -1}}
    recipe = recipe_of({**values, "federation": {"clients": 4, "fraction": 0.5, "local_steps": 7}}, "r.yaml")
    assert recipe.federation.steps == 3 * 2 * 7
