"""The address of the page: ports and hosts that cannot be used, headers on every answer, mistakes in one sentence."""

import asyncio
import socket
import subprocess
import sys
import threading

import pytest

from distill.base.errors import UserError
from distill.cli import main
from distill.demo import server
from distill.demo.server import Guard, address_of, listening


@pytest.fixture
def taken_port():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen(1)
        yield door.getsockname()[1]


def test_any_free_port_is_found():
    with listening("127.0.0.1", 0) as door:
        assert door.getsockname()[1] > 0
        assert door.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", -1, r"option --port is -1, but must be from 0 to 65535"),
        ("127.0.0.1", 70_000, r"option --port is 70000"),
        ("no such host", 0, r"option --host: no such host is no address"),
        ("192.0.2.7", 0, r"option --host: 192\.0\.2\.7 is no address of this machine"),
    ],
)
def test_places_that_cannot_be_listened_at_are_told(host, port, message):
    with pytest.raises(UserError, match=message):
        listening(host, port)


def test_a_port_in_use_is_told(taken_port):
    with pytest.raises(UserError, match=f"port {taken_port} is in use by another program; give another one"):
        listening("127.0.0.1", taken_port)


def test_addresses_are_what_a_browser_takes():
    assert address_of("127.0.0.1", 7860) == "http://127.0.0.1:7860"
    assert address_of("::1", 80) == "http://[::1]:80"
    assert address_of("0.0.0.0", 80) == f"http://{socket.gethostname()}:80"


# ------------------------------------------------------------------------------------------------------------ headers


async def page(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": b"page"})


def asked(path: bytes, query: bytes = b"") -> list[dict]:
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(page)({"type": "http", "raw_path": path, "query_string": query}, None, send))
    return sent


def test_every_answer_forbids_the_browser_to_ask_anybody_else():
    start, body = asked(b"/")
    headers = dict(start["headers"])
    assert (start["status"], body["body"], headers[b"x-own"]) == (200, b"page", b"1")
    policy = dict(rule.split(" ", 1) for rule in headers[b"content-security-policy"].decode().split("; "))
    assert policy["default-src"] == policy["frame-src"] == policy["base-uri"] == "'self'"
    allowed = {source for rule in policy.values() for source in rule.split()}
    assert allowed == {"'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", "blob:", "data:"}
    assert headers[b"referrer-policy"] == b"no-referrer"


def test_a_link_that_is_too_long_is_refused_in_a_sentence():
    start, body = asked(b"/", b"prompt=" + b"x" * 9_000)
    assert start["status"] == 414
    assert body["body"] == b"This link is longer than 8,000 characters; type the prompt on the page instead."
    assert asked(b"/", b"prompt=" + b"x" * 2_000)[0]["status"] == 200


# ----------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo"], "RUN"),
        (["demo", "FOLDER"], "is neither a finished run (it has no recipe.yaml) nor a model"),
        (["demo", "no such/folder/at all"], "no such folder"),
        (["demo", "demo", "--port", "TAKEN"], "is in use by another program"),
        (["demo", "demo", "--wordlist", "english_gendre", "--port", "0"], "did you mean 'english_gender'"),
        (["demo", "demo", "--port", "seven"], "invalid int value"),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_code_2(arguments, words, capsys, monkeypatch, tmp_path, taken_port):
    monkeypatch.setattr(server, "require_gradio", lambda: None)
    places = {"FOLDER": str(tmp_path), "TAKEN": str(taken_port)}
    assert main([places.get(word, word) for word in arguments]) == 2
    shown = capsys.readouterr()
    (told,) = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert words in told
    assert shown.out == ""


def test_without_gradio_it_is_told_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "demo", "--no-browser"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "error: the page needs gradio, which is not installed: pip install 'distill[demo]'"


# ------------------------------------------------------------------------------------------------------------ serving


def start(*arguments: str) -> tuple[subprocess.Popen, str]:
    """A process of `distill demo`, and the first line that it prints."""
    pytest.importorskip("gradio", reason="no gradio; install the extra `demo`")
    process = subprocess.Popen(
        [sys.executable, "-m", "distill.cli", "demo", *arguments, "--no-browser"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    timer = threading.Timer(120, process.kill)
    timer.start()
    line = process.stdout.readline().strip()
    timer.cancel()
    return process, line


def test_the_first_line_is_the_address_and_ctrl_c_ends_it(toy_run_folder):
    import signal
    from urllib.request import urlopen

    process, address = start(str(toy_run_folder), "--port", "0")
    try:
        assert address.startswith("http://127.0.0.1:")
        with urlopen(f"{address}/") as answer:
            assert answer.status == 200
            assert "content-security-policy" in {name.lower() for name in answer.headers}
        with urlopen(f"{address}/report/0") as answer:
            assert b"The report" in answer.read()
        for gone in (
            "report/1",
            "report/-1",
            "report/..%2Frecipe.yaml",
            "file=/etc/passwd",
            "gradio_api/file=/etc/passwd",
        ):
            with pytest.raises(OSError, match=r"40[0-9]|422"):
                urlopen(f"{address}/{gone}")
    finally:
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in errors
