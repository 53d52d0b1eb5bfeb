"""The kernel of a block's loss: what it is told of touched columns, and that a GPU's compiler takes it.

That it computes the right thing is test_kd_loss.py's.
"""

import os
import subprocess
import sys

import pytest
import torch
from shared import REPOSITORY

from distill.objective.listed_tokens import ListedTokens, listed_gradient
from distill.objective.logit_ops import RoleMap

kernels = pytest.importorskip("distill.objective.kernels", reason="needs triton, which is there on Linux alone")

V = 30


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (
            RuntimeError("Failed to find C compiler. Please specify via CC environment variable"),
            "it needs a C compiler",
        ),
        (FileNotFoundError(2, "No such file or directory", "cc-of-yesterday"), "it needs a C compiler"),
        (PermissionError(13, "Permission denied", "cc-of-yesterday"), "it needs a C compiler"),
        (PermissionError(13, "Permission denied", "/.triton"), "set TRITON_CACHE_DIR to a folder that can be written"),
        (OSError(122, "Disk quota exceeded"), "set TRITON_CACHE_DIR to a folder that can be written"),
    ],
)
def test_a_machine_on_which_no_kernel_can_be_built_is_told_once(monkeypatch, capsys, error, hint):
    """The way without Triton is taken."""
    kernels.works.cache_clear()
    monkeypatch.setenv("CC", "cc-of-yesterday")
    if not torch.cuda.is_available():
        assert kernels.works(torch.device("cpu"))  # in the interpreter
        kernels.works.cache_clear()

    def fails(*_):
        raise error

    monkeypatch.setattr(kernels, "_one", {(1,): fails})
    for _ in range(2):
        assert not kernels.works(torch.device("cpu"))
    told = capsys.readouterr().err
    assert told.count(f"cannot build a kernel here ({type(error).__name__}: ") == told.count(hint) == 1
    kernels.works.cache_clear()


EDGES = [(4, 9), (9, 4), (20, 11), (20, 25), (11, 20), (25, 20)]


def test_touched_columns_say_what_whole_rows_say():
    role_map = RoleMap(EDGES, V)
    listed = ListedTokens.of([role_map])
    found = kernels.touched((role_map,), listed, 64, torch.device("cpu"))
    assert found.columns.tolist() == [4, 9, 11, 20, 25]
    assert found.slots[found.columns].tolist() == [0, 1, 2, 3, 4] and (found.slots >= 0).sum() == 5
    own, other = torch.randn(2, 7, V, generator=torch.Generator().manual_seed(0)).unbind()
    whole = role_map.reverse(own, other)
    part = found.role_maps[0].reverse(own[:, found.columns], other[:, found.columns])
    assert torch.equal(part, whole[:, found.columns])
    of_whole = listed_gradient(own, other, listed)
    of_part = listed_gradient(own[:, found.columns], other[:, found.columns], found.listed)
    torch.testing.assert_close(of_part, of_whole)
    assert torch.equal(found.columns[found.listed.columns], listed.columns)
    # Asked again, it is not made again.
    assert kernels.touched((role_map,), listed, 64, torch.device("cpu")) is found


def test_nothing_is_touched_without_role_maps_and_listed_tokens():
    assert kernels.touched((), None, 64, torch.device("cpu")) is None


@pytest.mark.parametrize(("pairs", "dtype"), [(16_000, torch.int16), (17_000, torch.int32)])
def test_places_of_columns_are_kept_short_where_they_can_be(pairs, dtype):
    edges = [edge for i in range(pairs) for edge in ((2 * i, 2 * i + 1), (2 * i + 1, 2 * i))]
    found = kernels.touched((RoleMap(edges, 2 * pairs + 1),), None, 2 * pairs + 64, torch.device("cpu"))
    assert found.slots.dtype == dtype
    assert found.slots.tolist() == [*range(2 * pairs), *[-1] * 64]


COMPILE = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from distill.objective.kernels import _COLUMNS, _WARPS, _loss_of_row as kernel

names = kernel.arg_names
plain = dict(OTHERS=1, OP="expmean", DIVERGENCE="forward_kl", TARGET=True, KD=True, CE=False, MIXED=False,
             CAPPED=False, REVERSED=True, LISTED=True, COLUMNS=_COLUMNS)
types = dict(label="*i64", own="*i64", others="*i64", slots="*i16", moved="*fp32", target="*fp32", sums="*fp32",
             n="i32", width="i32", view_width="i32", vocab="i32", touched="i32")
for logits, settings in (
    ("*bf16", {}),
    ("*fp32", dict(OP="max", DIVERGENCE="jsd", MIXED=True, CE=True, CAPPED=True, OTHERS=2)),
    ("*bf16", dict(TARGET=False, KD=False, CE=True, OTHERS=0, OP="none", REVERSED=False, LISTED=False)),
):
    constants = plain | settings
    signature = {name: "constexpr" if name in constants else types.get(name, "fp32") for name in names}
    signature |= {"z": logits, "views": logits}
    fixed = {(names.index(name),): value for name, value in constants.items()}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in ("z", "views", "width", "view_width")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=aligned)
    code = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": _WARPS}).asm["ptx"]
    assert "ld.global.v2.b32" in code or "ld.global.v4.b32" in code, "logits are loaded one by one"
    assert ("lg2.approx" in code) == (constants["OTHERS"] > 0), "logarithms are not the card's own"
print("compiled")
"""


def test_the_compiler_of_a_gpu_takes_it_and_loads_several_numbers_at_once(tmp_path):
    """Without a GPU: the interpreter takes what the compiler refuses."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "compiled", done.stderr[-2000:]
