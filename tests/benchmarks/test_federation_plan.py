"""What federated rounds cost on paper, by hand."""

import pytest
from federation_plan import adapter_weights, gpt2, main, met, traffic, weights


@pytest.mark.parametrize("layers", [6, 12])
def test_weights_are_those_of_gpt2s_shape(layers):
    """Embeddings of 50,257 tokens and 1,024 places; a layer's matrices with biases and two norms; a last norm."""
    matrices = [(768, 2304), (768, 768), (768, 3072), (3072, 768)]
    layer = sum(wide * high + high for wide, high in matrices) + 4 * 768
    model = gpt2(layers)
    assert weights(model) == 768 * (50257 + 1024) + layers * layer + 2 * 768
    assert adapter_weights(model, rank=16) == layers * sum(16 * (wide + high) for wide, high in matrices)


def test_devices_that_rounds_meet():
    """Of 4, one round draws half: 2. Of the other 2 the next meets half."""
    assert (met(4, 0.5, 1), met(4, 0.5, 2)) == (2, 3)


def test_traffic_counts_what_a_device_needs_once_for_each_device_once():
    """In bf16: 3 rounds of 5 devices send 7 weights down and up, 420 bytes; 11 devices fetch 13 weights, 286 bytes."""
    assert traffic(7, 13, asked=5, distinct=11, rounds=3) == (706, 286)


def test_an_adapter_needs_no_base_beside_the_teacher(capsys):
    """Rows of FEDERATED.md, by hand: 95,208 devices fetch 248.9 MB, 23.7 TB; 200,000 messages of 4.7 MB are 0.9 TB."""
    main()
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["GPT-2 into itself, LoRA"].endswith("once 24.6 TB, the teacher 96%")
    assert lines["its half"].endswith("once 56.5 TB, the teacher 42%")
