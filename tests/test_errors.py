import math
import re

import pytest
from test_train import small_config

from ace_jax.errors import InputError, check_in
from ace_jax.model.formats import peft
from ace_jax.recipe import Recipe

IMPOSSIBLE = {
    "optimizer.learning_rate": (0.0, -1e-4, 1e39, 1e-60, math.nan, math.inf),
    "optimizer.b1": (-1.0, 1.0, math.nan),
    "optimizer.b2": (-0.1, 1 - 1e-12, math.nan),
    "optimizer.eps": (0.0, -1e-8, 1e-60, math.nan),
    "optimizer.grad_clip": (0.0, -1.0, math.nan),
    "optimizer.weight_decay": (-0.01, math.inf, math.nan),
    "optimizer.warmup": (-1,),
    "optimizer.accumulation": (0, -1),
    "lora.alpha": (0.0, -1.0, math.nan, 1e300),
    "lora.dropout": (1.0, -0.1, math.nan),
    "lora.rank": (0, -8),
    "batch.size": (0, -8),
    "validation.pairs": (0,),
}


@pytest.mark.parametrize("field", IMPOSSIBLE)
def test_what_no_run_can_use_is_refused_by_name(field):
    for value in IMPOSSIBLE[field]:
        config = small_config("x", **{field.replace(".", "__"): value})
        with pytest.raises(InputError, match=f"^{re.escape(f'{field}: {value}')} is not "):
            Recipe.of(config, peft.adapter_config(config.lora))


def test_an_interval_says_whether_its_ends_belong_to_it():
    check_in("[0, 1)", a=0.0, b=0.99, c=None)
    check_in("[0, 4294967295]", seed=4294967295)
    for interval, number in (("[0, 1)", 1.0), ("(0, 1]", 0.0), ("[0, 4294967295]", 4294967296)):
        with pytest.raises(InputError, match=r"^a\.b: .* is not in "):
            check_in(interval, a__b=number)
