"""Adapters for llama.cpp: read back and added to a GGUF model, they give the merged model."""

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from safetensors.numpy import load_file
from test_convert import plain, random_adapter, run, transformer
from test_gguf import ALL, qwen, weights_of, write_gguf  # noqa: F401 - a fixture

from ace_jax.errors import InputError
from ace_jax.model.formats.gguf import GGUFSource


def read(file):
    """The fields and tensors of a GGUF file."""
    reader = GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def served(base, adapter, path):
    """Writes the GGUF file of what llama.cpp computes with: W + alpha / rank * B A."""
    fields, factors = read(adapter)
    assert fields["general.type"] == "adapter" and fields["adapter.type"] == "lora"
    assert {factor.dtype for factor in factors.values()} == {np.dtype(np.float32)}
    before = GGUFReader(base)
    writer = GGUFWriter(path, fields["general.architecture"])
    for name, field in before.fields.items():
        if not name.startswith(("GGUF.", "general.architecture")):
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1])
    for tensor in before.tensors:
        weight = np.array(tensor.data)
        if f"{tensor.name}.lora_a" in factors:
            a, b = factors.pop(f"{tensor.name}.lora_a"), factors.pop(f"{tensor.name}.lora_b")
            assert a.shape[1] == weight.shape[1] and b.shape == (weight.shape[0], len(a))
            weight = weight + np.float32(fields["adapter.lora.alpha"] / len(a)) * (b @ a)
        writer.add_tensor(tensor.name, weight)
    assert not factors  # llama.cpp refuses an adapter with a tensor that the model lacks
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def check_served(base, peft, tmp_path):
    run("export-gguf", "--adapter", peft, "--model", base, "--output", tmp_path / "out" / "a.gguf")
    run("merge", "--adapter", peft, "--model", base, "--output", tmp_path / "merged")
    source = GGUFSource(served(base, tmp_path / "out" / "a.gguf", tmp_path / "served.gguf"))
    merged, bare = weights_of(tmp_path / "merged"), GGUFSource(base)
    assert set(source.stored) == merged.keys()
    for name, weight in merged.items():
        found = source.read(name, ALL * weight.ndim)
        np.testing.assert_allclose(found, weight, rtol=0, atol=1e-6, err_msg=name)
        if name.endswith("proj.weight"):
            assert np.abs(found - bare.read(name, ALL * weight.ndim)).max() > 0.01


@pytest.mark.parametrize("rslora", [False, True])
def test_llama_cpp_computes_with_the_merged_weights(rslora, tiny_checkpoint, tmp_path):
    base = write_gguf(tmp_path / "tiny.gguf", tiny_checkpoint, change=plain)
    random_adapter(transformer(tiny_checkpoint), tmp_path / "peft", rslora)
    check_served(base, tmp_path / "peft", tmp_path)


def test_a_qwen_is_no_llama_to_llama_cpp(qwen, tmp_path):  # noqa: F811
    directory, base = qwen
    random_adapter(transformer(directory), tmp_path / "peft")
    check_served(base, tmp_path / "peft", tmp_path)
    fields, _ = read(tmp_path / "out" / "a.gguf")
    assert fields["general.architecture"] in base.parent.joinpath("hf/config.json").read_text()


def test_names_shapes_and_order_are_those_of_llama_cpp(tiny_checkpoint, tmp_path):
    random_adapter(transformer(tiny_checkpoint), tmp_path / "peft", True, ["q_proj", "down_proj"])
    run("export-gguf", "--adapter", tmp_path / "peft", "--output", tmp_path / "a.gguf")
    fields, factors = read(tmp_path / "a.gguf")
    assert fields["general.architecture"] == "llama"
    assert fields["adapter.lora.alpha"] == 3 * 4**0.5  # divided by the rank: alpha / sqrt(rank)
    modules = ("attn_q", "ffn_down")
    names = [f"blk.{layer}.{module}.weight.lora_" for layer in (0, 1) for module in modules]
    assert factors.keys() == {name + factor for name in names for factor in "ab"}
    stored = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    stem = "base_model.model.model.layers.1."
    wanted = stored[f"{stem}self_attn.q_proj.lora_B.weight"]
    # Heads of 16 rows; channel 8 rotates with channel 0 and comes next to it.
    np.testing.assert_array_equal(factors[names[2] + "b"][[0, 1, 2, 17]], wanted[[0, 8, 1, 24]])
    down = stored[f"{stem}mlp.down_proj.lora_B.weight"]
    np.testing.assert_array_equal(factors[names[3] + "b"], down)


def test_mistakes_are_one_line_and_leave_nothing(tiny_checkpoint, tmp_path):
    random_adapter(transformer(tiny_checkpoint), tmp_path / "peft")
    exporting = ("export-gguf", "--adapter", tmp_path / "peft")
    with pytest.raises(InputError, match="not a PEFT adapter"):
        run("export-gguf", "--adapter", tiny_checkpoint, "--output", tmp_path / "a.gguf")
    config = tmp_path / "peft" / "adapter_config.json"
    described = config.read_text()
    config.write_text(described.replace('"lora_alpha": 3', '"lora_alpha": 0'))
    with pytest.raises(
        InputError, match=r"lora_alpha is 0, which llama\.cpp takes for a scale of 1"
    ):
        run(*exporting, "--output", tmp_path / "a.gguf")
    config.write_text(described)
    assert [path.name for path in tmp_path.iterdir()] == ["peft"]
    (tmp_path / "a.gguf").write_text("mine")
    with pytest.raises(InputError, match=r"a\.gguf exists; choose another file"):
        run(*exporting, "--output", tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").read_text() == "mine"
