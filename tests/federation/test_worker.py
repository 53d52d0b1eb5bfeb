"""The process that stays: started by who asks, one a node, kept, thrown away when it is dead, nobody else's.

Its answers are those of a script of a few lines here, which loads nothing.
"""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from shared import REPOSITORY

from distill.base.errors import UserError
from distill.federation import worker

SCRIPT = """
import os, signal, sys, time
from distill.base.errors import UserError
from distill.federation.worker import ToldError, serve

count = 0

def answer(request, payload):
    global count
    count += 1
    if request.get("mistake"):
        raise UserError("the text begins 'Mrs Hale'")
    if request.get("told"):
        raise ToldError("no such round")
    if request.get("fault"):
        raise ValueError("not a number: 'Mrs Hale'")
    if request.get("die") and not os.path.exists(request["die"]):
        open(request["die"], "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if request.get("die_always"):
        os.kill(os.getpid(), signal.SIGKILL)
    if request.get("began"):
        open(request["began"], "w").close()
        time.sleep(600)
    return {"process": os.getpid(), "count": count}, payload[::-1]

serve(answer, sys.argv[1:])
"""
ASK = """
import json, sys
from pathlib import Path
from distill.federation import worker
worker._COMMAND = (sys.executable, sys.argv[1])
print(json.dumps(worker.ask(Path(sys.argv[2]), json.loads(sys.argv[3]), b"", 60.0)[0]))
"""


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Asks the worker of a folder, and ends all that were started."""
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    monkeypatch.setattr(worker, "_COMMAND", (sys.executable, str(tmp_path / "script.py")))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    started, plain = [], os.posix_spawn
    monkeypatch.setattr(os, "posix_spawn", lambda *args, **keys: started.append(plain(*args, **keys)))

    def asked(payload=b"abc", keep=60.0, folder=tmp_path / "node", **request):
        return worker.ask(folder, request, payload, keep)

    asked.started = started
    yield asked
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def test_it_stays_and_is_asked_again(ask, tmp_path):
    first, payload = ask(b"weights" * 1_000_000)
    second, _ = ask()
    assert payload == (b"weights" * 1_000_000)[::-1]
    assert first == {"process": ask.started[0], "count": 1}
    assert second == {"process": ask.started[0], "count": 2}
    assert stat.S_IMODE((tmp_path / "node").stat().st_mode) == 0o700


def test_a_folder_of_any_length_will_do(ask, tmp_path):
    """A socket's address has 107 characters at most."""
    assert ask(folder=tmp_path / ("long" * 30) / ("longer" * 20))[1] == b"cba"


def test_a_mistake_is_told_where_it_quotes_no_text_and_it_stays(ask, capfd):
    """The server hears what is raised here; the SuperNode's terminal has the rest."""
    with pytest.raises(UserError, match=r"^no such round$"):
        ask(told=True)
    with pytest.raises(UserError, match="a mistake in its recipe, text or environment") as raised:
        ask(mistake=True)
    assert "Hale" not in str(raised.value) and "the text begins 'Mrs Hale'" in capfd.readouterr().err
    assert ask()[0] == {"process": ask.started[0], "count": 3}


def test_after_another_error_which_is_not_quoted_a_new_one_is_asked(ask, capfd):
    with pytest.raises(UserError, match="ends with ValueError") as raised:
        ask(fault=True)
    assert "Hale" not in str(raised.value)
    os.waitid(os.P_PID, ask.started[0], os.WEXITED | os.WNOWAIT)
    assert "ValueError: not a number: 'Mrs Hale'" in capfd.readouterr().err
    assert ask()[0] == {"process": ask.started[1], "count": 1}


def test_one_that_was_killed_between_two_messages_is_started_anew(ask):
    ask()
    os.kill(ask.started[0], signal.SIGKILL)
    os.waitid(os.P_PID, ask.started[0], os.WEXITED | os.WNOWAIT)
    assert ask()[0] == {"process": ask.started[1], "count": 1}


def test_one_that_dies_within_an_answer_is_started_anew_once(ask, tmp_path):
    assert ask(die=str(tmp_path / "died"))[0]["process"] == ask.started[1]
    with pytest.raises(UserError, match="ended twice"):
        ask(die_always=True)
    assert len(ask.started) == 3


def test_it_leaves_when_nobody_asks(ask):
    ask(keep=0.1)
    _, status = os.waitpid(ask.started.pop(), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert ask()[0]["count"] == 1


def test_others_may_not_look_into_its_folder(ask, tmp_path):
    ask()
    (tmp_path / "node").chmod(0o750)
    with pytest.raises(UserError, match="chmod 700"):
        ask()
    (tmp_path / "open").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "node")
    with pytest.raises(NotADirectoryError):
        ask(folder=tmp_path / "link")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_another_user_is_refused_by_the_system(ask, tmp_path):
    ask()
    tmp_path.chmod(0o755)
    code = "import os, socket; os.setuid(65534); socket.socket(socket.AF_UNIX).connect('node/socket')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False)
    assert b"PermissionError" in done.stderr


def child(tmp_path, **request):
    """Asks from a process whose parent, which stands for the node, is this one."""
    (tmp_path / "ask.py").write_text(ASK, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "ask.py"), str(tmp_path / "script.py"), str(tmp_path / "node")]
    return subprocess.Popen([*command, json.dumps(request)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def workers(tmp_path):
    """Workers of this test that run."""
    found = []
    for process in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            words = Path("/proc", process, "cmdline").read_bytes().split(b"\0")
            if words[1:2] == [str(tmp_path / "script.py").encode()]:
                found.append(int(process))
    return found


def until(what):
    for _ in range(600):
        if found := what():
            return found
        time.sleep(0.05)
    raise TimeoutError


def test_a_folder_of_another_node_is_refused(ask, tmp_path):
    ask()  # this process's parent is the node
    asking = child(tmp_path)
    assert "another SuperNode's" in asking.communicate()[1]


def test_it_ends_when_who_asked_has_gone(ask, tmp_path):
    asking = child(tmp_path, began=str(tmp_path / "began"))
    until((tmp_path / "began").exists)
    running = until(lambda: workers(tmp_path))
    asking.kill()
    asking.communicate()
    until(lambda: not workers(tmp_path))
    assert len(running) == 1


def test_it_ends_with_its_node(ask, tmp_path):
    """Whatever it is at: a shell stands for the node, and is killed."""
    (tmp_path / "ask.py").write_text(ASK, encoding="utf-8")
    request = json.dumps({"began": str(tmp_path / "began")})
    inner = f"{sys.executable} {tmp_path}/ask.py {tmp_path}/script.py {tmp_path}/node '{request}'; true"
    node = subprocess.Popen(["/bin/sh", "-c", inner], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until((tmp_path / "began").exists)
    assert workers(tmp_path)
    node.kill()
    node.wait()
    until(lambda: not workers(tmp_path))
