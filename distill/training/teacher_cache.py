"""The teacher's last hidden states on disk, so that epochs after the first run no teacher.

1. A row is one view of one block: T tokens, a (T, D) tensor. Rows are numbered block by block, view by view.
2. `hidden.bin` has room for all rows and takes as much of the disk as rows have been written; `checksums.bin` has a
   64-bit checksum for each, 0 for a row that is not there. A row is written when the teacher has predicted it, its
   checksum after it. So a row that a kill or a full disk left half-written is not there, and any number of processes
   may write and read side by side.
3. Each row is held against its checksum whenever it is read, which takes half the time of the reading: a row with a
   flipped bit is predicted and written anew.
4. The folder's name is the hash of all that decides the content, which `key.json` repeats. A folder with another key or
   files of another size is made anew.

Rows are read and written by position, not mapped: a full disk or a file cut short is then an error that can be dealt
with, where a mapped page would end the process, and the rows do not count as this process's memory.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
import xxhash
from torch import Tensor
from transformers import PreTrainedModel

from distill.base.console import say
from distill.base.errors import UserError
from distill.base.files import write_json
from distill.base.integrity import partial_of
from distill.data.blocks import BlockDataset
from distill.models.architecture import head, weights_hash
from distill.objective.transfer import copied_to
from distill.recipe import Recipe

_FORMAT_VERSION = 1  # part of the key: raise it when the files change
_CHECKSUM_BYTES = 8
_GIB = 2**30


class _Predicted(NamedTuple):
    """Rows that are to be written.

    rows: Their M numbers. hidden: (M, T, D), and was_finite: () bool, whether they were so before they were rounded;
    both on the CPU, once `copied` has come, where that is set.
    """

    rows: list[int]
    hidden: Tensor
    was_finite: Tensor
    copied: torch.cuda.Event | None

    @classmethod
    def of(cls, rows: list[int], hidden: Tensor, was_finite: Tensor) -> "_Predicted":
        """From wherever they are, which is not waited for."""
        copies = hidden.to("cpu", non_blocking=True), was_finite.to("cpu", non_blocking=True)
        copied = torch.cuda.Event() if hidden.is_cuda else None
        if copied is not None:
            copied.record()
        return cls(rows, *copies, copied)


class TeacherCache:
    """Hidden states of the rows of a data set.

    Args:
        folder: Where the files lie; made, or made anew if it holds anything else than this key's files.
        key: All that decides the content, ready for JSON.
        views: (N,) the number of views of each block.
        shape: (T, D) of a row.
        dtype: Number format on disk.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, key: dict[str, Any], views: np.ndarray, shape: tuple[int, int], dtype: torch.dtype
    ) -> None:
        self.folder = folder
        self._first_row = np.cumsum(views) - views
        self._shape, self._dtype = shape, dtype
        self.row_bytes = shape[0] * shape[1] * dtype.itemsize
        self.damaged = 0  # rows that did not fit their checksums
        self._writable = True
        self._unwritten: _Predicted | None = None
        self.rows = int(views.sum())
        sizes = {"hidden.bin": self.rows * self.row_bytes, "checksums.bin": self.rows * _CHECKSUM_BYTES}
        if not self._whole(key, sizes):
            self._make(key, sizes)
        self._hidden, self._checksums = (os.open(folder / name, os.O_RDWR) for name in sizes)

    def _whole(self, key: dict[str, Any], sizes: dict[str, int]) -> bool:
        if not self.folder.exists():
            return False
        try:
            there = json.loads((self.folder / "key.json").read_text(encoding="utf-8"))
            if there == key and all((self.folder / name).stat().st_size == size for name, size in sizes.items()):
                return True
        except (OSError, ValueError, RecursionError):
            pass
        say(f"{self.folder} is damaged or belongs to other text or another teacher; it is made anew")
        shutil.rmtree(self.folder)
        return False

    def _make(self, key: dict[str, Any], sizes: dict[str, int]) -> None:
        """An empty cache, in a folder of its own until it is whole: other runs may make the same one."""
        partial = partial_of(self.folder)
        partial.mkdir(parents=True)
        for name, size in sizes.items():
            with open(partial / name, "wb") as file:
                file.truncate(size)
        write_json(partial / "key.json", key)
        try:
            partial.rename(self.folder)
        except OSError:  # another run was quicker
            shutil.rmtree(partial)

    def close(self) -> None:
        """Close the files.

        Raises:
            UserError: see `hidden_states`.
        """
        self._write_last()
        os.close(self._hidden)
        os.close(self._checksums)

    def missing_rows(self) -> int:
        """How many rows are not there."""
        return int(np.count_nonzero(np.fromfile(self.folder / "checksums.bin", dtype=np.uint64) == 0))

    def hidden_states(
        self, source: np.ndarray, predict: Callable[[np.ndarray], Tensor], device: torch.device
    ) -> tuple[Tensor, np.ndarray]:
        """The hidden states of rows, from the disk where they are there.

        Args:
            source: (R, 2) index of the block and view of each row.
            predict: Called with the (M,) indices into `source` of the rows that are not there, if any, for their
                hidden states (M, T, D).
            device: Where they are wanted. What is predicted on a GPU is written when the next are asked for, or at the
                end: it is copied meanwhile, and nobody waits.

        Returns:
            (R, T, D) hidden states in the cache's number format, whether they were there or not, and (R,) which of them
            were predicted.

        Raises:
            UserError: the format cannot hold what was predicted.
        """
        self._write_last()
        rows = (self._first_row[source[:, 0]] + source[:, 1]).tolist()
        hidden = torch.empty(len(rows), *self._shape, dtype=self._dtype, pin_memory=device.type == "cuda")
        predicted = np.array([not self._read(row, out) for row, out in zip(rows, hidden, strict=True)])
        hidden = hidden.to(device, non_blocking=True)
        if predicted.any():
            missing = np.flatnonzero(predicted)
            exact = predict(missing)
            made = exact.to(self._dtype)
            hidden.index_copy_(0, copied_to(torch.from_numpy(missing), device), made)
            self._unwritten = _Predicted.of([rows[i] for i in missing], made, exact.isfinite().all())
            if device.type == "cpu":
                self._write_last()
        return hidden, predicted

    def _write_last(self) -> None:
        """Write what was predicted last, if it is not written yet.

        Raises:
            UserError: see `hidden_states`.
        """
        last, self._unwritten = self._unwritten, None
        if last is None:
            return
        if last.copied is not None:
            last.copied.synchronize()
        if last.was_finite and not last.hidden.isfinite().all():
            raise UserError(
                f"the teacher's last hidden states are too large for {self._dtype}; set teacher.cache_dtype to bfloat16"
            )
        for row, values in zip(last.rows, last.hidden, strict=True):
            if values.isfinite().all():  # others stop the step by the loss, which names the text, and are not kept
                self._write(row, values)

    def _read(self, row: int, out: Tensor) -> bool:
        """Fill `out`, (T, D), and say whether the row is there and whole."""
        checksum = int.from_bytes(os.pread(self._checksums, _CHECKSUM_BYTES, row * _CHECKSUM_BYTES), "little")
        if not checksum:
            return False
        buffer = _bytes(out)
        try:
            size = os.preadv(self._hidden, [buffer], row * self.row_bytes)
        except OSError:  # the disk cannot read it
            size = 0
        whole = size == self.row_bytes and _checksum(buffer) == checksum
        if not whole:
            if not self.damaged:
                say(f"{self.folder}: hidden states do not fit their checksum; the teacher predicts such blocks anew")
            self.damaged += 1
        return whole

    def _write(self, row: int, values: Tensor) -> None:
        if not self._writable:
            return
        buffer = _bytes(values.contiguous())
        try:
            # The old checksum, if any, does not fit the new values: until the new one is there, the row is not.
            if os.pwrite(self._hidden, buffer, row * self.row_bytes) < self.row_bytes:
                raise OSError("the disk is full")
            os.pwrite(self._checksums, _checksum(buffer).to_bytes(_CHECKSUM_BYTES, "little"), row * _CHECKSUM_BYTES)
        except OSError as error:
            self._writable = False
            say(f"{self.folder}: {error.strerror or error}; training continues, but no more hidden states are cached")


def _bytes(values: Tensor) -> memoryview:
    """The memory of a contiguous tensor, as bytes."""
    return values.view(torch.uint8).flatten().numpy().data


def _checksum(buffer: memoryview) -> int:
    """A 64-bit checksum that is never 0."""
    return xxhash.xxh3_64_intdigest(buffer) or 1


def open_teacher_cache(
    folder: Path, teacher: PreTrainedModel, blocks: BlockDataset, recipe: Recipe, mixed_precision: str
) -> TeacherCache:
    """The cache of a teacher's hidden states of these blocks; says how much of the disk it will take.

    Args:
        folder: Folder of caches.
        teacher: The teacher as it predicts.
        blocks: The data set.
        recipe: The length of a block, and the number format on disk. Without one it is that in which the loss projects
            hidden states to the vocabulary, so that nothing is lost: autocast's, else the teacher's.
        mixed_precision: accelerate's name of the autocast in which the teacher predicts: no, bf16, fp16.

    Raises:
        UserError: the disk has too little room, or the folder cannot be written.
    """
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision, teacher.dtype)
    dtype = getattr(torch, recipe.teacher.cache_dtype) if recipe.teacher.cache_dtype else autocast
    shape = (recipe.block_length, head(teacher)[0].shape[1])
    config = {k: v for k, v in teacher.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    products = torch.get_float32_matmul_precision()
    key = {
        "format": _FORMAT_VERSION,
        "blocks": blocks.key,
        "teacher": weights_hash(teacher),
        "config": hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest(),
        "attention": teacher.config._attn_implementation,
        "computed in": [str(teacher.dtype), mixed_precision, *([products] if products != "highest" else [])],
        "kept in": str(dtype),
        "shape": list(shape),
        "transformers": transformers.__version__,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    folder = folder / f"teacher-{name}"
    try:
        cache = TeacherCache(folder, key, blocks.views(), shape, dtype)
    except OSError as error:
        raise UserError(
            f"teacher.cache_hidden_states: {folder} cannot be written ({error.strerror}); set cache_dir to another "
            "folder, or leave the cache out"
        ) from None
    missing, free = cache.missing_rows(), shutil.disk_usage(folder).free
    needed = missing * cache.row_bytes
    if needed > free:
        cache.close()
        if missing == cache.rows:
            shutil.rmtree(folder)
        raise UserError(
            f"teacher.cache_hidden_states: the teacher's hidden states take up to {needed / _GIB:.1f} GiB more in "
            f"{folder}, where only {free / _GIB:.1f} GiB are free; make room, set cache_dir to a folder on another "
            "disk, set teacher.cache_dtype to bfloat16, or leave the cache out"
        )
    if needed:
        say(
            f"the teacher's hidden states will take up to {needed / _GIB:.2f} GiB more in {folder} "
            f"({dtype}, {free / _GIB:.1f} GiB are free)".replace("torch.", "")
        )
    return cache
