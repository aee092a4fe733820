"""The methods to compare: what each config says, and that training does it."""

import re
import runpy

import numpy as np
import pandas as pd
import pytest
from test_evaluate import config_for
from test_train import ROOT, metrics_of, quick_commands, small_config

from ace_jax import evaluate, train
from ace_jax.errors import InputError
from ace_jax.losses import Anchor
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.survey.personas import ATTRIBUTES

CONFIGS = runpy.run_path(str(ROOT / "configs/methods.py"))
METHODS, method_config = CONFIGS["METHODS"], CONFIGS["get_config"]
UNTRAINED = {"base", "adprompt"}


@pytest.fixture(scope="module", autouse=True)
def quick(mesh):
    with quick_commands(mesh):
        yield


def flat(config):
    """Fields by their full names."""
    rows = {}
    for name, value in config.to_dict().items():
        inner = value if isinstance(value, dict) else {"": value}
        rows |= {f"{name}.{field}".rstrip("."): entry for field, entry in inner.items()}
    return rows


@pytest.mark.parametrize("method", METHODS)
def test_a_method_differs_from_the_quickstart_in_what_it_names(method):
    quickstart = flat(runpy.run_path(str(ROOT / "configs/quickstart.py"))["get_config"]())
    own = flat(method_config(method))
    assert own.keys() == quickstart.keys()
    differing = {name for name in own if own[name] != quickstart[name]}
    assert differing <= METHODS[method].keys()
    assert METHODS[method].keys() - differing <= {"objective.stages"}  # `paper` is the quickstart


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_takes_the_methods_prompt_and_survey(method):
    get_config = runpy.run_path(str(ROOT / "configs/evaluate.py"))["get_config"]
    found, trained = get_config(f"methods:{method}"), method_config(method)
    assert found.prompt == trained.prompt
    assert found.data.path == trained.data.path
    assert found.adapter.path is None


def test_trained_methods_get_the_same_number_of_epochs():
    stages = {method: method_config(method).objective.stages for method in METHODS}
    for method, its in stages.items():
        assert sum(epochs for _, _, epochs in its) == (0 if method in UNTRAINED else 6)


def test_a_method_can_have_fewer_epochs():
    shorter = {method: method_config(f"{method}@2") for method in ("paper", "kl")}
    assert shorter["paper"].objective.stages == ((1.0, 0.0, 1), (0.0, 1.0, 1))
    assert shorter["kl"].objective.stages == ((1.0, 0.0, 2),)
    assert flat(shorter["paper"]).keys() == flat(method_config("paper")).keys()
    with pytest.raises(ValueError, match="2 stages cannot share 3 epochs alike"):
        method_config("paper@3")


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no method 'sft'; there are: base, adprompt, paper"):
        method_config("sft")


def test_the_script_runs_all_that_are_trained():
    script = (ROOT / "launch/results.sh").read_text()
    (methods,) = re.findall(r'^methods="(.*)"$', script, re.MULTILINE)
    assert set(methods.split()) == METHODS.keys() - UNTRAINED - {"subpop"}


@pytest.mark.parametrize(
    ("anchor", "normalizer", "message"),
    [
        ("kl", "options", r"objective\.anchor: 'kl' is not known; did you mean forward_kl, mode"),
        ("wasserstein", "vocabulary", r"anchor: wasserstein .* set objective\.anchor_normalizer"),
    ],
)
def test_an_anchor_that_is_none_is_refused_before_anything_is_written(
    anchor, normalizer, message, tiny_checkpoint, tmp_path
):
    with pytest.raises(InputError, match=message):
        Anchor.of(anchor, normalizer)
    changes = {"objective.anchor": anchor, "objective.anchor_normalizer": normalizer}
    with pytest.raises(InputError, match=message):
        train.main(small_config(tiny_checkpoint, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_wasserstein_training_begins_at_the_base_models_distance(tiny_checkpoint, tmp_path):
    """The first step's loss is what `evaluate` finds over the endpoints of its pairs (Eq. 15)."""
    small = small_config(
        tiny_checkpoint,
        objective__anchor="wasserstein",
        objective__stages=((1.0, 0.0, 1),),
        lora__dropout=0.0,
        data__min_n=166,  # 4 pairs
        max_steps=1,
    )
    train.main(small, tmp_path / "run")
    (row,) = metrics_of(tmp_path / "run")
    config = config_for(
        tiny_checkpoint, "gss2018", data__questions=small.data.questions, data__min_n=166
    )
    evaluate.main(config, tmp_path / "out")
    predictions = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    pairs = toggle_pairs(predictions, ATTRIBUTES, min_n=166)
    ends = pairs[["cell_0", "cell_1"]].to_numpy()
    assert len(ends) == 4
    expected = np.mean(predictions["distance"].to_numpy()[ends])
    assert row["loss"] == row["anchor_loss"] == pytest.approx(expected, rel=1e-5)
