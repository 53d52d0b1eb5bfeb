"""Runs what launches Triton's kernels without a GPU: in its interpreter, which is chosen before Triton loads."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import pytest


def run_interpreted(check: Callable[[str], None]) -> None:
    """A function of a test module that takes a device, with that of the CPU; skips where there is no Triton.

    In a process of its own where there is a GPU, for which this one's Triton compiles.

    Raises:
        CalledProcessError: it failed there.
    """
    if find_spec("triton") is None:
        pytest.skip("needs Triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of what a GPU says nothing of
            check("cpu")
        return
    folder, module = os.path.split(os.path.splitext(check.__code__.co_filename)[0])
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([folder, *filter(None, sys.path)]),
    }
    call = f"import {module} as own; own.{check.__name__}('cpu')"
    subprocess.run([sys.executable, "-c", call], check=True, env=environment)
