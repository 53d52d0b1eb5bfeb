"""What the user can mend: messages fit for a terminal, hints, and the errors of libraries and disks as sentences."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from shared import REPOSITORY

from distill.base.console import run_entry
from distill.base.errors import (
    UserError,
    first_line,
    hub_hint,
    printable,
    storage_error,
    storage_errors_as_user_errors,
    suggestion,
)
from distill.recipe import read_recipe_file


@given(st.text())
def test_any_message_is_one_printable_line(text):
    assert str(UserError(text)) == printable(text)
    assert printable(text).isprintable()


@given(st.text(st.characters(categories=["L", "N", "P"])).filter(lambda text: "hf_" not in text and "org_" not in text))
def test_a_message_that_is_printable_stays_as_it_is(text):
    assert printable(text[:2000]) == text[:2000]


def test_a_long_message_keeps_its_ends():
    shown = printable("begin" + "x" * 10_000 + "end")
    assert len(shown) < 2_100 and shown.startswith("beginx") and shown.endswith("xend") and " ... " in shown


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such layer.\nTraceback of a library"), "no such layer"),
        (ValueError("\n\n  of 3 kinds..  \n"), "of 3 kinds"),
        (OSError(errno.ENOENT, "No such file"), "[Errno 2] No such file"),
        (KeyError(), "KeyError"),
        (RuntimeError(" \n"), "RuntimeError"),
        (ValueError("In field 'a':\n\n    expected int.\nmore"), "In field 'a': expected int"),
        (ValueError("In field 'a':\n"), "In field 'a':"),
    ],
)
def test_the_first_line_of_an_error_is_part_of_a_sentence(error, line):
    assert first_line(error) == line


def test_a_suggestion_names_what_is_near_and_all_where_they_are_few():
    assert suggestion("maen", ["max", "mean"]) == "did you mean 'mean'? (known are: max, mean)"
    assert suggestion("zzz", ["max", "mean"]) == "known are: max, mean"
    many = [f"name{letter}" for letter in "abcdefghijk"]
    assert suggestion("namea", many).startswith("did you mean 'namea'") and "known are" not in suggestion("namea", many)
    assert suggestion("x", []) == "known are: "


@pytest.mark.parametrize(("value", "is_offline"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_hint_for_the_hub_knows_whether_it_may_be_asked(value, is_offline, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert ("HF_HUB_OFFLINE is set" in hub_hint()) == is_offline


# ------------------------------------------------------------------------------------------------------------ storage


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO", "ENOENT"])
def test_what_a_disk_does_is_a_sentence_with_the_file(name):
    number = getattr(errno, name)
    told = storage_error(OSError(number, os.strerror(number), "folder/model.safetensors"))
    reason = os.strerror(number)
    assert str(told).startswith(
        f"folder/model.safetensors: {reason[0].lower()}{reason[1:]}; free space, or mend access"
    )


def test_a_name_that_no_disk_takes_is_told(capsys):
    """Whoever meets it: Python looks for such a file in some versions, and finds that there is none in others."""
    name = "a" * 300
    with pytest.raises(UserError, match=rf"^{name}: too long for the name of a file"), storage_errors_as_user_errors():
        os.stat(name)
    assert run_entry(lambda argv: read_recipe_file(argv[0]), [name]) == 2
    assert capsys.readouterr().err.startswith(f"error: {name}: ")


def test_a_full_output_of_a_command_that_does_not_continue_promises_nothing():
    told = storage_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), continues=False)
    assert str(told) == (
        "the output: no space left on device; free space, or mend access to it, and give the same command again"
    )


@pytest.mark.parametrize("error", [OSError(errno.ECONNRESET, "reset"), ValueError("full"), RuntimeError("CUDA error")])
def test_other_errors_are_none_of_a_disk(error):
    assert storage_error(error) is None
    with pytest.raises(type(error)) as raised, storage_errors_as_user_errors():
        raise error
    assert raised.value is error


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_what_torch_and_safetensors_make_of_a_full_disk_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="torch could not write all of a file"), storage_errors_as_user_errors():
        torch.save({"weights": torch.zeros(100_000)}, "/dev/full")
    with pytest.raises(UserError, match="no such file or directory; free space"), storage_errors_as_user_errors():
        save_file({"weights": torch.zeros(2)}, tmp_path / "no folder" / "model.safetensors")


def test_a_users_mistake_passes_as_it_is():
    mistake = UserError("the recipe is wrong")
    with pytest.raises(UserError) as raised, storage_errors_as_user_errors():
        raise mistake
    assert raised.value is mistake


ASKED = {
    "model": "from distill.models.loading import load_model\nload_model('openai-community/gpt2')",
    "tokenizer": "from distill.models.loading import load_tokenizer\nload_tokenizer('openai-community/gpt2')",
    "prompts": "from distill.text.prompts import load_prompts\nload_prompts('AmazonScience/bold')",
    "corpus": (
        "from distill.recipe import CorpusConfig\nfrom distill.text.documents import read_documents\n"
        "next(read_documents(CorpusConfig(source='hub', dataset='Salesforce/wikitext'), 0))"
    ),
}


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """What is said of each, and on the standard error, by a process without a network and with an empty cache."""
    code = f"""
import json
from distill.base.errors import UserError
said = {{}}
for name, ask in {ASKED!r}.items():
    try:
        exec(ask)
    except UserError as error:
        said[name] = str(error)
print(json.dumps(said))
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path_factory.mktemp("hub"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("model", "openai-community/gpt2"),
        ("tokenizer", "openai-community/gpt2"),
        ("prompts", "AmazonScience/bold"),
        ("corpus", "Salesforce/wikitext"),
    ],
)
def test_an_offline_hub_is_named_in_one_sentence(offline, asked, name):
    said, errors = offline
    message = said[asked]
    assert "\n" not in message
    assert name in message and message.endswith(
        "; HF_HUB_OFFLINE is set, so it must be in the cache: unset it, or give a local path"
    )
    assert "Traceback" not in errors


def test_a_hint_for_the_hub_without_the_switch(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert "network" in hub_hint()
