"""The package as a user meets it: the API, the console script, the configs that come along."""

import re
import subprocess
import sys

import pytest
from test_train import ROOT

import ace_jax
from ace_jax import __main__ as console
from ace_jax.errors import InputError
from ace_jax.recipe import find_config, load_config

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_bare_import_loads_nothing_large():
    program = (
        "import sys, ace_jax; "
        "print(sorted({'jax', 'pandas', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.stdout == "[]\n", shown.stderr


def test_a_message_starts_no_device():
    program = (
        "import jax; from ace_jax.runtime.progress import log, progress, show_messages; "
        "show_messages(); log('here'); progress('x', 'step', 0, 1).close(); "
        "from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.stdout == "False\n", shown.stderr
    assert "here" in shown.stderr


def test_every_public_name_is_there_and_documented():
    for name in ace_jax.__all__:
        assert getattr(ace_jax, name).__doc__, name
        assert name in dir(ace_jax)
    with pytest.raises(AttributeError, match="has no attribute 'Modell'"):
        _ = ace_jax.Modell


def test_the_reference_page_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = re.findall(r"^::: ace_jax\.(\w+)$", page, re.MULTILINE)
    assert sorted(shown) == sorted(ace_jax.__all__)


def test_readme_uses_names_that_exist():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    compile(example, "README.md", "exec")
    named = set(re.findall(r"\bace\.(?!py\b)([A-Za-z_]+)", README))
    assert named and named <= {*ace_jax.__all__}


def test_the_console_script_knows_its_commands(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ace-jax", *arguments])
        console.main()
        return capsys.readouterr().out

    assert run("--version") == f"ace-jax {ace_jax.__version__}\n"
    shown = run("--help")
    assert all(name in shown for name in console.COMMANDS)
    with pytest.raises(SystemExit, match="error: 'trian' is no command"):
        run("trian")
    with pytest.raises(SystemExit) as ended:
        run("convert", "--help")
    assert ended.value.code in (0, None) and "export-adapter" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["quickstart", "quickstart.py", "configs/quickstart.py"])
def test_a_config_is_found_away_from_the_repository(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == str(ROOT / "configs" / "quickstart.py")
    assert find_config(f"{name}:smoke").endswith("quickstart.py:smoke")
    assert load_config(f"{name}:smoke").data.questions


def test_a_config_of_the_users_own_comes_first(tmp_path, monkeypatch):
    (tmp_path / "quickstart.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_config("quickstart.py") == "quickstart.py"


@pytest.mark.parametrize("name", ["nowhere.py", "other/quickstart.py"])
def test_a_config_that_is_not_there_is_refused_with_those_that_are(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"no file {name}; with the package come ace, eqls, eval"):
        find_config(name)
