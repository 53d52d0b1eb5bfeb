"""The neutral rate by hand, from the continuations that generation disparity reads too."""

from measuring import PROMPTS, scored

from distill.metrics import evaluation as evaluation_module


def test_one_sampling_serves_both_metrics(toy_model, evaluated, monkeypatch):
    calls = []
    monkeypatch.setattr(
        evaluation_module, "generate", lambda *a, **k: calls.append(a) or [["he", "she"]] * len(PROMPTS)
    )
    evaluation = evaluated(toy_model())
    scored("generation_disparity", evaluation)
    scored("neutral_rate", evaluation)
    assert len(calls) == 1


def test_neutral_rate_by_hand(bigram, evaluated):
    evaluation = evaluated(bigram())
    evaluation.continuations = [["he said", "nobody"], ["", "the book"], ["she and he", "her"]]
    outcome = scored("neutral_rate", evaluation)
    assert (outcome.value, outcome.n, outcome.ideal) == (0.5, 6, None)
