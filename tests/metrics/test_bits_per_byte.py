"""Bits per byte counts UTF-8 bytes."""

from measuring import scored


def test_bytes_are_utf8(bigram, evaluated):
    assert scored("bits_per_byte", evaluated(bigram(), documents=["é€"])).n == 5
