"""Lets a CPU write texts as a large GPU does."""

from distill.models import generation, wide_decoding


def write_as_on_gpu(monkeypatch, memory=80 * 2**30):
    """From here on `generate` takes the path of a GPU of so many bytes, which is fast in float64."""
    monkeypatch.setattr(generation, "on_gpu", lambda model: True)
    monkeypatch.setattr(wide_decoding, "fast_in_double", lambda device: True)
    monkeypatch.setattr(wide_decoding, "total_memory", lambda device: memory)
