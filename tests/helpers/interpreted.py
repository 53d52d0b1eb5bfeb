"""Runs what launches Triton's kernels without a GPU: in its interpreter, which is chosen before Triton loads."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest


def run_interpreted(file: str, call: str) -> None:
    """A call of the test module ``file``, which it knows as `own`; skips where there is no Triton.

    Raises:
        CalledProcessError: it failed.
    """
    if find_spec("triton") is None:
        pytest.skip("needs Triton")
    folder, module = os.path.split(os.path.splitext(file)[0])
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([folder, *filter(None, sys.path)]),
    }
    subprocess.run([sys.executable, "-c", f"import {module} as own; own.{call}"], check=True, env=environment)
