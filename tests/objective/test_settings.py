"""The ranges of the loss's settings, said once for a recipe and for whoever makes `LossSettings` by hand."""

import math
from dataclasses import asdict, fields

import pytest

from distill.base.errors import UserError
from distill.objective.settings import LossSettings, require_sound
from distill.recipe import LossConfig, TargetConfig


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"divergence": "forward-kl"}, "unknown divergence 'forward-kl'; did you mean 'forward_kl'? (known are:"),
        ({"op": "exp_mean"}, "unknown operation 'exp_mean'; did you mean 'expmean' or 'mean'? (known are: none, max,"),
        ({"strength": 1.5}, "strength is 1.5, but must lie in [0, 1]"),
        ({"kd": -1.0}, "kd is -1.0, but a weight must not be negative"),
        ({"ce": math.nan}, "ce is nan, but a weight must"),
        ({"hidden": math.inf}, "hidden is inf, but a weight must"),
        ({"listed": -0.1}, "listed is -0.1, but a weight must"),
        ({"temperature": 0.0}, "temperature is 0.0, but must be greater than 0"),
        ({"jsd_beta": 1.0}, "jsd_beta is 1.0, but must lie between 0 and 1"),
        ({"chunk_tokens": 0}, "chunk_tokens is 0, but must be at least 1"),
    ],
)
def test_wrong_settings_are_the_users_mistake(wrong, message):
    with pytest.raises(UserError) as error:
        LossSettings(**wrong)
    assert message in str(error.value)
    with pytest.raises(UserError) as of_recipe:
        require_sound(wrong, "loss.")
    assert str(of_recipe.value) == f"loss.{error.value}"


def test_a_recipe_sets_every_setting_and_has_the_same_defaults_but_for_the_operation():
    of_recipe = asdict(LossConfig()) | {name: getattr(TargetConfig(), name) for name in ("op", "strength")}
    assert of_recipe.keys() == {f.name for f in fields(LossSettings)}
    assert LossSettings(**of_recipe) == LossSettings(op="none")
