"""The plan command for the tiny model: this machine's CPU, and a TPU slice if libtpu is here."""

import importlib.util
import json
import runpy

import jax
import pytest
from test_train import ROOT, small_config

from ace_jax import plan
from ace_jax.errors import InputError
from ace_jax.planning.workload import describe_for_plan


@pytest.fixture
def config(tiny_checkpoint):
    changes = {"lora.targets": ("q_proj",), "lora.dropout": 0.0, "model.dtype": "bfloat16"}
    jax.config.update("jax_disable_most_optimizations", True)
    yield small_config(tiny_checkpoint, **changes)
    jax.config.update("jax_disable_most_optimizations", False)


def test_a_plan_with_the_cpu_in_place_of_gpus(config, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    plan.main(config, "h100:2", tmp_path / "plan.json")
    printed = capsys.readouterr().out
    for words in ("peak", "TFLOP", "MB sent a device", "Assumptions", "survey: gss2018"):
        assert words in printed
    assert "stands in for that of h100:2" in printed
    assert "\nfits: 0.0 of 80.0 GB" in printed
    train = json.loads((tmp_path / "plan.json").read_text())
    assert train["sent"] > 0
    assert train["arguments"]["optimizer"] == pytest.approx(2 * train["arguments"]["LoRA"], abs=64)
    assert train["flops"] > 0
    assert train["pairs_per_second"] == pytest.approx(4 / max(train["seconds"].values()))


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_plan_for_a_tpu_slice(config, capsys, tmp_path):
    config.mesh.data, config.mesh.fsdp = 2, 2
    plan.main(config, "v5e:2x2", tmp_path / "plan.json")
    assert "fits: " in capsys.readouterr().out
    step = json.loads((tmp_path / "plan.json").read_text())
    assert min(step["seconds"].values()) > 0
    assert step["verdict"].startswith("fits: 0.0 of 16.9 GB")
    assert step["sent"] > 0
    assert jax.default_backend() == "cpu"


@pytest.mark.parametrize(
    ("topology", "changes", "reason"),
    [
        ("v7:2", {}, "--topology v7:2: write"),
        ("h100:2", {"mesh.fsdp": 3}, "mesh: .* does not fit 2 device"),
        ("h100:2", {"model.path": "nobody/nothing"}, "model.path: nobody/nothing"),
        ("h100:2", {"batch.row_lengths": (64,)}, "batch.row_lengths: the longest prompt"),
        ("h100:64", {}, r"--topology h100:64: JAX has started with 8 CPU device\(s\)"),
    ],
)
def test_what_cannot_be_planned_is_refused(config, topology, changes, reason):
    config.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=reason):
        plan.main(config, topology, None)


def test_a_missing_libtpu_is_named(config, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'ace_jax\[tpu\]'"):
        plan.main(config, "v5e:2x2", None)


def test_a_plan_replaces_no_file(config, tmp_path):
    mine = tmp_path / "mine.json"
    mine.write_text("mine")
    with pytest.raises(InputError, match=r"mine\.json exists; choose another file"):
        plan.main(config, "h100:2", mine)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("variant", ["8b-v5e-4", "70b-v6e-64"])
def test_ready_configs_name_models_that_the_package_knows(variant):
    config = runpy.run_path(str(ROOT / "configs/llama3.py"))["get_config"](variant)
    description, source = describe_for_plan(config.model.path)
    assert description.config.hidden_size == {"8b": 4096, "70b": 8192}[variant.split("-")[0]]
    assert source
    assert config.batch.size % config.batch.neighbours == 0


def test_other_variants_are_refused():
    with pytest.raises(ValueError, match="no variant '8b'; choose from 8b-v5e-4"):
        runpy.run_path(str(ROOT / "configs/llama3.py"))["get_config"]("8b")
