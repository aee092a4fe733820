"""The plan command, for the tiny model: this machine's CPU, and a TPU slice where libtpu is."""

import importlib.util
import json
import runpy

import jax
import pytest
from test_train import ROOT, small_config

from ace_jax import plan
from ace_jax.errors import InputError

TARGETS = {"lora.targets": ("q_proj",), "lora.dropout": 0.0}


@pytest.fixture
def config(tiny_checkpoint):
    return small_config(tiny_checkpoint, **TARGETS, **{"model.dtype": "bfloat16"})


def test_a_plan_for_the_cpu(config, capsys, tmp_path):
    plan.main(config, "host:2", 8, tmp_path / "plan.json")
    printed = capsys.readouterr().out
    for words in ("peak", "TFLOP", "all-reduce", "Assumptions", "survey: gss2018"):
        assert words in printed
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["train"]["estimate"] is None  # nothing says how fast this machine is
    assert written["train"]["pairs"] == 4
    assert set(written["train"]["collectives"]) == {"all-reduce"}
    arguments = written["train"]["arguments"]
    assert arguments["optimizer"] == pytest.approx(2 * arguments["LoRA"], abs=64)
    assert written["train"]["flops"] > 1.5 * written["score"]["flops"] > 0


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_plan_for_a_tpu_slice(config, capsys, tmp_path):
    config.mesh.data, config.mesh.fsdp = 2, 2
    plan.main(config, "v5e:2x2", 8, tmp_path / "plan.json")
    assert "fits: " in capsys.readouterr().out
    written = json.loads((tmp_path / "plan.json").read_text())
    for step in ("train", "score"):
        assert written[step]["estimate"]["seconds"] > 0
        assert written[step]["verdict"].startswith("fits: 0.0 of 16.9 GB")
        assert "all-gather" in written[step]["collectives"]
    assert jax.default_backend() == "cpu"


def test_a_plan_for_gpus_says_what_stands_in(config, capsys):
    plan.main(config, "h100:2", 8, None)
    printed = capsys.readouterr().out
    assert "stands in for that of h100:2" in printed
    assert "fits: 0.0 of 80.0 GB" in printed


@pytest.mark.parametrize(
    ("topology", "changes", "reason"),
    [
        ("v7:2", {}, "--topology v7:2: 'v7' is not one of"),
        ("host:2", {"mesh.fsdp": 3}, "mesh: .* does not fit 2 device"),
        ("host:2", {"model.path": "nobody/nothing"}, "model.path: nobody/nothing"),
        ("host:2", {"batch.row_lengths": (64,)}, "batch.row_lengths: the longest prompt"),
    ],
)
def test_what_cannot_be_planned_is_refused(config, topology, changes, reason):
    config.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=reason):
        plan.main(config, topology, 8, None)


def test_more_host_devices_than_jax_started_with_are_refused(config):
    assert jax.device_count() == 8
    with pytest.raises(InputError, match=r"--topology host:64: JAX runs with 8 device\(s\)"):
        plan.main(config, "host:64", 8, None)


def test_a_missing_libtpu_is_named(config, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'ace_jax\[tpu\]'"):
        plan.main(config, "v5e:2x2", 8, None)


def test_a_place_for_json_that_is_none_is_refused_first(config, tmp_path):
    with pytest.raises(InputError, match=r"--json .* is no directory"):
        plan.main(config, "host:2", 8, tmp_path / "none" / "plan.json")


@pytest.mark.parametrize("variant", ["8b-v5e-4", "70b-v6e-64"])
def test_ready_configs_name_models_that_the_package_knows(variant):
    config = runpy.run_path(str(ROOT / "configs/llama3.py"))["get_config"](variant)
    description, source = plan.describe_for_plan(config.model.path)
    assert description.config.hidden_size == {"8b": 4096, "70b": 8192}[variant.split("-")[0]]
    assert source
    assert config.batch.size % config.batch.neighbours == 0


def test_other_variants_are_refused():
    with pytest.raises(ValueError, match="no variant '8b'; there are: 8b-v5e-4"):
        runpy.run_path(str(ROOT / "configs/llama3.py"))["get_config"]("8b")
