"""Compiled programs stay in the user's cache, unless jax's own settings say otherwise."""

import platform

import jax
import pytest
from jax._src import compilation_cache

from ace_jax.runtime.processes import keep_compiled


@pytest.fixture
def settings():
    """Jax's settings of its cache, which are put back."""
    names = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")
    before = {name: jax.config.values[name] for name in names}
    compilation_cache.reset_cache()
    yield before
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_programs_are_kept_for_later_runs_on_this_machine(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled()
    jax.jit(lambda x: x * 3.25 + 1)(1.0).block_until_ready()
    kept = tmp_path / "ace_jax" / "compiled" / platform.node()
    assert any(kept.iterdir())


def test_a_directory_of_the_users_choice_stays(settings):
    keep_compiled()
    assert jax.config.values["jax_compilation_cache_dir"] == settings["jax_compilation_cache_dir"]


def test_a_cache_that_cannot_be_written_is_none(settings, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled()
    assert jax.config.values["jax_compilation_cache_dir"] is None
