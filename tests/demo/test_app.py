"""The page as it is put together: nothing that gradio would load or send, and lists that come from the user alone."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from distill.base.errors import UserError
from distill.demo import app
from distill.demo.app import _list_of, _no_links, require_gradio

WITHOUT = "no gradio; install the extra `demo`"


def test_without_gradio_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install 'distill\[demo\]'"):
        require_gradio()


@pytest.mark.parametrize("version", ["5.49.1", "6.19.2", "4.0"])
def test_an_older_gradio_is_told_before_any_model_is_loaded(monkeypatch, version):
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(__version__=version))
    with pytest.raises(UserError, match=rf"needs gradio 6\.20 or later, and {version} is installed: pip install"):
        require_gradio()


def test_telemetry_is_off_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(__version__="6.20.0"))  # a stand-in
    require_gradio()
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_the_module_does_without_gradio():
    source = Path(app.__file__).read_text(encoding="utf-8")
    assert "\nimport gradio" not in source
    assert "\nfrom gradio" not in source


def test_a_list_is_one_of_those_offered_or_a_file(tmp_path):
    names = ["english_gender", "english_religion"]
    seen, called = _list_of("english_religion", None, names)
    assert (seen.wordlist.name, called) == ("english_religion", "english_religion")
    with pytest.raises(UserError, match="there is no word list /etc/passwd; choose one of: english_gender"):
        _list_of("/etc/passwd", None, names)
    (tmp_path / "mine.tsv").write_text("a\tb\none\ttwo\n", encoding="utf-8")
    seen, called = _list_of("english_gender", str(tmp_path / "mine.tsv"), names)
    assert (seen.wordlist.groups, called) == (("a", "b"), "mine.tsv")


def test_a_link_in_the_place_of_a_file_is_not_fetched():
    moved = []

    async def move(path):
        moved.append(path)
        return path

    assert asyncio.run(_no_links(move)("/tmp/x.tsv")) == "/tmp/x.tsv"
    for link in ("http://example.org/list.tsv", "https://example.org/list.tsv", "file:///etc/passwd"):
        with pytest.raises(ValueError, match="a word list is a file, not a link: nothing is fetched"):
            asyncio.run(_no_links(move)(link))
    assert moved == ["/tmp/x.tsv"]


# gradio leaves event loops and sockets open where it is only built and never served: in a process of its own.
_BUILD = """
import json, sys
from distill.demo.app import build, look
from distill.demo.loaded import load
from distill.demo.sources import read_shown
page = build(load(read_shown([sys.argv[1]])), {"run": "report/0"})
theme = look()["theme"]
found = {
    "components": page.get_config_file()["components"],
    "analytics": page.analytics_enabled,
    "sheets": [sheet for sheet in theme._stylesheets if sheet],
    "style": theme._get_theme_css(),
    "endpoints": list(page.get_api_info()["named_endpoints"]),
}
print("\\n" + json.dumps(found, default=str))
"""


@pytest.fixture(scope="module")
def page(toy_run_folder):
    """What a page is made of."""
    pytest.importorskip("gradio", reason=WITHOUT)
    done = subprocess.run([sys.executable, "-c", _BUILD, str(toy_run_folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_tabs_stand_in_order(page):
    tabs = [c["props"]["label"] for c in page["components"] if c["type"] == "tabitem"]
    assert tabs == ["Next word", "Continue", "Swap", "Report"]


def test_nothing_in_the_page_comes_from_elsewhere(page):
    config = json.dumps([component["props"] for component in page["components"]])
    assert "http://" not in config
    assert "https://" not in config
    assert page["analytics"] is False
    assert page["sheets"] == []
    assert not re.findall(r"""url\((?!['"]?data:)""", page["style"])


def test_nobody_is_offered_an_interface_for_programs(page):
    assert page["endpoints"] == []


def test_every_field_has_a_label(page):
    kinds = ("textbox", "dropdown", "slider", "file", "radio", "number")
    fields = [c for c in page["components"] if c["type"] in kinds]
    assert len(fields) >= 10
    assert all(c["props"]["label"] for c in fields)
