"""What federated rounds of GPT-2 cost past one machine, on paper: the second half of FEDERATED.md.

python tests/benchmarks/federation_plan.py

Weights are counted on models of GPT-2's shape that hold none. Traffic is counted without headers and compression.
"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

BYTES = 2  # bf16
RANK = 16
STEPS, ROWS, LENGTH, VIEWS = 10, 8, 128, 2  # of a client's update; the text and its counterfactual
CLIENTS, SHARE, ROUNDS = 1_000_000, 0.001, 100
DEVICE = 50e9  # floating-point operations a second that a phone keeps up on its processor, an assumption


def gpt2(layers: int) -> GPT2LMHeadModel:
    """GPT-2 with so many layers, without memory for its weights."""
    with torch.device("meta"):
        return GPT2LMHeadModel(GPT2Config(n_layer=layers))


def weights(model: GPT2LMHeadModel) -> int:
    """Weights, a tied head once."""
    return sum(parameter.numel() for parameter in model.parameters())


def adapter_weights(model: GPT2LMHeadModel, rank: int = RANK) -> int:
    """Weights of LoRA on all linear layers but the head."""
    return sum(rank * sum(module.weight.shape) for module in model.modules() if isinstance(module, Conv1D))


def met(devices: int, share: float, rounds: int) -> float:
    """Different devices that so many rounds meet, in expectation, each of which draws a share of them anew."""
    return devices * (1 - (1 - share) ** rounds)


def traffic(travels: int, once: int, asked: int, distinct: float, rounds: int) -> tuple[float, float]:
    """Bytes of all rounds, and the part of them that devices fetch once.

    Args:
        travels: Weights that a device and the server send one another in a round.
        once: Weights that a device fetches before its first round.
        asked: Devices a round.
        distinct: Different devices in all rounds.
        rounds: How many.
    """
    first = BYTES * distinct * once
    return BYTES * 2 * rounds * asked * travels + first, first


def megabytes(number: float) -> str:
    return f"{BYTES * number / 1e6:,.1f} MB"


def main() -> None:
    """Print what the tables hold."""
    whole, half = gpt2(12), gpt2(6)
    sent = {
        "GPT-2 into itself": weights(whole),
        "its half": weights(half),
        "GPT-2 into itself, LoRA": adapter_weights(whole),
        "its half, LoRA": adapter_weights(half),
    }
    asked = round(CLIENTS * SHARE)
    distinct = met(CLIENTS, SHARE, ROUNDS)
    print(
        f"teacher, once a device: {megabytes(weights(whole))}; {asked:,} devices a round, {distinct:,.0f} in {ROUNDS}"
    )
    for name, travels in sent.items():
        # The base of an adapter is layers of the teacher, which is there.
        total, first = traffic(travels, weights(whole), asked, distinct, ROUNDS)
        print(
            f"{name}: {megabytes(travels)} each way; a round {2 * asked * travels * BYTES / 1e9:,.1f} GB; "
            f"{ROUNDS} rounds with what each device needs once {total / 1e12:,.1f} TB, the teacher {first / total:.0%}"
        )
    tokens = STEPS * ROWS * LENGTH
    read = VIEWS * tokens
    hidden = whole.config.n_embd * BYTES
    print(f"targets at the server: {read:,} tokens up; hidden states {read * hidden / 1e6:,.1f} MB down, ", end="")
    every = read * whole.config.vocab_size * 2
    print(f"64 likeliest tokens {read * 64 * 4 / 1e6:,.1f} MB, all of them {every / 1e6:,.0f} MB")
    operations = read * (2 * weights(whole) + 6 * weights(half))
    minutes = operations / DEVICE / 60
    print(f"an update: {operations / 1e12:,.1f} TFLOP, {minutes:,.0f} minutes at {DEVICE / 1e9:,.0f} GFLOP/s")
    teacher = 2 * weights(whole) / (2 * weights(whole) + 6 * weights(half))
    print(f"the teacher's share of it: {teacher:.0%}; a server's sums in float64: {8 * weights(half) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
