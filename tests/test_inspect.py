"""What `convert inspect` tells of checkpoints. Of adapters and runs: test_convert.py."""

import json

import pytest
from gguf import GGMLQuantizationType as Kind
from safetensors.numpy import load_file
from test_gguf import write_gguf

from ace_jax import convert
from ace_jax.errors import InputError
from ace_jax.model.formats.hf import fingerprint
from ace_jax.model.formats.hub import open_checkpoint


def weights_of(directory):
    return {n: w for file in directory.glob("*.safetensors") for n, w in load_file(file).items()}


def described(capsys, *arguments):
    capsys.readouterr()
    convert.main(["inspect", "--json", *map(str, arguments)])
    facts = json.loads(capsys.readouterr().out)
    convert.main(["inspect", *map(str, arguments)])
    lines = capsys.readouterr().out.splitlines()
    assert [name for name in facts if any(line.startswith(f"{name}  ") for line in lines)] == (
        list(facts)
    )
    return facts


def test_inspect_tells_of_a_checkpoint(tiny_checkpoint, capsys):
    facts = described(capsys, tiny_checkpoint)
    count = sum(weight.size for weight in weights_of(tiny_checkpoint).values())
    assert (facts["num_layers"], facts["tokens"]) == (2, 384)
    assert (facts["parameters"], facts["dtypes"]) == (count, ["F32"])
    assert (facts["rope"], facts["files"]) == ("theta 10000, stretched", ["model.safetensors"])
    assert facts["fingerprint"] == fingerprint(open_checkpoint(str(tiny_checkpoint)).source)


def test_inspect_tells_of_a_gguf_file(tiny_checkpoint, tmp_path, capsys):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_checkpoint, Kind.Q8_0)
    facts = described(capsys, file)
    assert (facts["kind"], facts["dtypes"]) == ("checkpoint (GGUF)", ["F32", "Q8_0"])


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_inspect_refuses_what_is_nothing(content, tmp_path):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        convert.main(["inspect", str(tmp_path)])
