"""Files that are not what they were."""

from pathlib import Path


def flip_bit(path: Path, byte: int | None = None) -> None:
    """Flip a bit of a file, in its middle unless told where."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if byte is None else byte] ^= 1
    path.write_bytes(content)


def folder_of(path: Path, **files: str) -> Path:
    """A new folder with these files, by their names."""
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path
