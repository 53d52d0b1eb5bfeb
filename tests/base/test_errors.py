"""The words of a user's mistake."""

import json
import os
import subprocess
import sys

import pytest
from shared import REPOSITORY

from distill.base.errors import hub_hint

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
