"""Membership: AUC and true positives against scipy's and a count of all pairs; what reference and control take away."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from measuring import GENDER, all_scored
from scipy.stats import mannwhitneyu

from distill.metrics import METRICS, Evaluation, NotMeasured
from distill.metrics.audited import Audited
from distill.metrics.bootstrap import difference, resampled
from distill.metrics.membership_inference.membership_inference import _min_k, auc, true_positives
from distill.recipe import ScoreConfig

SIDES = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40)
MEMBERS = [f"The nurse said that she was tired of the king {n}." for n in range(25)]
OTHERS = [f"The book was late and the queen took his coat {n}." for n in range(25)]


@pytest.fixture
def audited(toy_tokenizer, wordlist):
    """A function from a model and the losses of a reference and a control to an evaluation."""

    def make(model, members=MEMBERS, others=OTHERS, **losses):
        given_ = {name: (lambda values=values: values) for name, values in losses.items()}
        return Evaluation(
            model, toy_tokenizer, wordlist(GENDER), settings=ScoreConfig(bootstrap=200),
            audited=Audited(members, others), **given_,
        )  # fmt: skip

    return make


@given(SIDES)
def test_auc_is_the_share_of_pairs_in_order(drawn):
    signal, member = (np.array(column) for column in zip(*drawn, strict=True))
    if member.all() or not member.any():
        with np.errstate(invalid="ignore"):
            assert math.isnan(auc(signal, member, np.ones(len(signal))))
        return
    found = auc(signal, member, np.ones(len(signal)))
    pairs = [(a > b) + (a == b) / 2 for a in signal[member] for b in signal[~member]]
    assert found == pytest.approx(np.mean(pairs))
    assert found == pytest.approx(mannwhitneyu(signal[member], signal[~member]).statistic / len(pairs))


@given(SIDES, st.integers(0, 100))
def test_weights_are_copies(drawn, seed):
    signal, member = (np.array(column) for column in zip(*drawn, strict=True))
    weights = np.random.default_rng(seed).integers(0, 4, len(signal))
    copies = np.repeat(signal, weights), np.repeat(member, weights)
    for statistic in (auc, true_positives):
        with np.errstate(invalid="ignore"):
            expected = statistic(*copies, np.ones(len(copies[0]))) if weights.any() else math.nan
            found = statistic(signal, member, np.stack([weights, weights]).astype(float))
        assert found == pytest.approx([expected, expected], nan_ok=True)


@given(SIDES)
def test_true_positives_are_those_of_the_best_threshold(drawn):
    signal, member = (np.array(column) for column in zip(*drawn, strict=True))
    if member.all() or not member.any():
        return
    allowed = [
        (signal[member] > threshold).mean()
        for threshold in [*signal, -10]
        if (signal[~member] > threshold).mean() <= 0.01
    ]
    assert true_positives(signal, member, np.ones(len(signal))) == pytest.approx(max(allowed))


def test_losses_are_those_of_the_text_alone(toy_model, audited, toy_tokenizer):
    from measuring import alone

    model = toy_model(seed=1)
    found = audited(model).audited_losses
    texts = [*MEMBERS, *OTHERS]
    assert found == pytest.approx([-alone(model, toy_tokenizer, t) / len(t.encode()) for t in texts], rel=1e-4)


LONG = " ".join(["The nurse said that she was tired of the king."] * 12)


def test_each_byte_of_a_text_longer_than_the_context_is_counted(toy_model, toy_tokenizer, wordlist):
    """By hand: where every token is as likely as any other, each costs ln V, however long the text is."""
    model = toy_model()
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    texts = ["He took his coat.", LONG]
    tokens = [len(toy_tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    settings, each = ScoreConfig(bootstrap=20, context=12), math.log(model.config.vocab_size)
    assert tokens[1] > 5 * 12  # the least likely fifth would be among the tokens cut off
    evaluation = Evaluation(model, toy_tokenizer, wordlist(GENDER), settings=settings, audited=Audited(texts, texts))
    expected = [count * each / len(text.encode()) for count, text in zip(tokens, texts, strict=True)]
    assert evaluation.audited_losses == pytest.approx(expected * 2, rel=1e-6)
    assert _min_k(evaluation) == pytest.approx([-each] * 4, rel=1e-6)
    details = METRICS["membership_inference"].measure(evaluation)["membership_excess_auc"].details
    assert details["longer_than_context"] == 2


def test_a_text_longer_than_the_context_is_read_through_windows(toy_model, toy_tokenizer, wordlist):
    """Token by token: each behind what the first window that holds it has before it."""
    model, context, stride = toy_model(seed=1), 12, 5
    settings = ScoreConfig(context=context, stride=stride)
    evaluation = Evaluation(
        model, toy_tokenizer, wordlist(GENDER), settings=settings, audited=Audited([LONG], OTHERS[:1])
    )
    ids = [toy_tokenizer.bos_token_id, *toy_tokenizer(LONG, add_special_tokens=False)["input_ids"]]
    expected = []
    for place in range(1, len(ids)):
        moved = max(0, -(-(place + 1 - context) // stride))
        begin = min(context + moved * stride, len(ids)) - context
        with torch.no_grad():
            logits = model(torch.tensor([ids[begin:place]])).logits[0, -1].double()
        expected.append(logits.log_softmax(-1)[ids[place]].item())
    assert evaluation.audited_log_probs[0] == pytest.approx(expected, rel=1e-4)
    assert evaluation.audited_losses[0] == pytest.approx(-sum(expected) / len(LONG.encode()), rel=1e-4)


def test_a_perfect_tell_is_half_above_chance(toy_model, audited):
    model = toy_model(seed=1)
    own = audited(model).audited_losses
    reference = own + np.array([1.0] * 25 + [0.0] * 25)  # members surprise the model less than they should
    found = all_scored("membership_inference", audited(model, reference=reference))
    assert found["membership_excess_auc"].value == 0.5
    assert found["membership_tpr"].value == 1.0
    assert found["membership_excess_auc"].details["auc"] == 1.0


def test_what_the_control_tells_as_well_is_no_memory(toy_model, audited):
    """Texts of two kinds: the model tells them apart, and so does one that saw neither."""
    model = toy_model(seed=1)
    own = audited(model).audited_losses
    alone_ = all_scored("membership_inference", audited(model, reference=np.zeros(50)))["membership_excess_auc"]
    both = all_scored("membership_inference", audited(model, reference=np.zeros(50), control=own))
    assert abs(alone_.value) > 0.1
    assert both["membership_excess_auc"].value == 0.0
    assert both["membership_excess_auc"].low == both["membership_excess_auc"].high == 0.0
    assert alone_.details["control"].startswith("none")


def test_the_reference_itself_is_judged_by_its_loss(toy_model, audited):
    model = toy_model(seed=1)
    own = audited(model).audited_losses
    itself = all_scored("membership_inference", audited(model, reference=own))["membership_excess_auc"]
    plain = all_scored("membership_inference", audited(model))["membership_excess_auc"]
    assert itself.value == plain.value == pytest.approx(plain.details["raw_loss_auc"] - 0.5)
    assert "is the reference" in itself.details["reference"]


def test_models_are_compared_on_the_same_texts(toy_model, audited):
    model = toy_model(seed=1)
    own = audited(model).audited_losses
    module = METRICS["membership_inference"]
    first, second = (
        module.measure(audited(model, reference=own + shift))["membership_excess_auc"]
        for shift in [np.random.default_rng(0).normal(size=50)] * 2
    )
    same = difference(first, second, resamples=100, seed=0)
    assert (same["value"], same["low"], same["high"]) == (0.0, 0.0, 0.0)
    drawn = resampled(first, resamples=100, seed=0).drawn
    assert len(drawn) == 100 and len(set(drawn)) > 50


def test_intervals_hold_chance_as_often_as_they_say():
    """A hundred pairs of samples of one distribution: about five intervals miss 0.5."""
    from distill.metrics.bootstrap import Measurement, interval

    missed = 0
    for seed in range(100):
        signal = np.random.default_rng(seed).normal(size=200)
        member = np.arange(200) < 100
        measurement = Measurement(np.ones(200), lambda w, s=signal, m=member: auc(s, m, w), "text", 200, "texts")
        low, high = interval(np.array(resampled(measurement, resamples=300, seed=seed).drawn))
        missed += not low <= 0.5 <= high
    assert 1 <= missed <= 13


def test_few_texts_are_too_few(toy_model, audited):
    module = METRICS["membership_inference"]
    for members, others, told in ((19, 20, "only 19 members"), (20, 19, "only 19 others")):
        found = module.measure(audited(toy_model(), MEMBERS[:members], OTHERS[:others]))
        assert told in found["membership_excess_auc"].too_little
    found = module.measure(audited(toy_model(), MEMBERS[:20], OTHERS[:20]))
    assert found["membership_excess_auc"].too_little is None


def test_without_texts_it_is_not_measured(toy_model, audited):
    with pytest.raises(NotMeasured, match="--members"):
        METRICS["membership_inference"].measure(audited(toy_model(), [], []))


def test_compute_heeds_the_reference_and_the_control(toy_model, toy_tokenizer, audited, tmp_path):
    files = {}
    for name, texts in (("members", MEMBERS), ("others", OTHERS)):
        (tmp_path / name).with_suffix(".jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
        files[name] = str(tmp_path / f"{name}.jsonl")
    models = {name: toy_model(seed=seed) for seed, name in enumerate(("asked", "reference", "control"))}
    for name in ("reference", "control"):
        models[name].save_pretrained(tmp_path / name)
        toy_tokenizer.save_pretrained(tmp_path / name)
    losses = {name: audited(models[name]).audited_losses for name in ("reference", "control")}
    expected = all_scored("membership_inference", audited(models["asked"], **losses))["membership_excess_auc"]
    metric = METRICS["membership_inference"].MembershipInference()
    found = metric.compute(
        model=models["asked"], tokenizer=toy_tokenizer, bootstrap=200, **files,
        **{name: str(tmp_path / name) for name in ("reference", "control")},
    )["membership_excess_auc"]  # fmt: skip
    assert found["value"] == pytest.approx(expected.value, abs=1e-6)
    assert found["details"]["reference"] == found["details"]["control"] == "yes"
    without = metric.compute(model=models["asked"], tokenizer=toy_tokenizer, bootstrap=200, **files)
    assert without["membership_excess_auc"]["value"] != found["value"]


def test_what_is_no_number_tells_no_member(toy_model, audited):
    """Its positions from the fifth on are damaged: what it says there is no number, which is neither more nor less."""
    model = toy_model()
    torch.nn.init.constant_(model.transformer.wpe.weight[5:], math.nan)
    for found in all_scored("membership_inference", audited(model, reference=np.zeros(50))).values():
        assert (found.value, found.low) == (None, None)
