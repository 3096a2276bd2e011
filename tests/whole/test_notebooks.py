"""The notebooks as files: small, without logic, the same set-up everywhere, generated from their `.py`."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import jupytext
import pytest

import tc3lib
from tc3lib import presets, settings
from tc3lib.runtime import workspace as runtime

ROOT = Path(__file__).parents[2]
NAMES = sorted(runtime.STAGES)
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
LOGIC = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.Try, ast.For, ast.While, ast.With,
    ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.If, ast.IfExp,
)  # fmt: skip


def cells(name):
    return jupytext.read(ROOT / "notebooks" / f"{name}.py").cells


def code(name):
    """Without the set-up cell, whose line is for a shell."""
    return [cell.source for cell in cells(name) if cell.cell_type == "code" and cell.source[0] != "!"]


def test_every_stage_has_its_source_and_its_generated_notebook():
    files = {path.name for path in (ROOT / "notebooks").iterdir() if path.is_file()}
    assert files == {f"{name}{suffix}" for name in NAMES for suffix in (".py", ".ipynb")}


@pytest.mark.parametrize("name", NAMES)
def test_the_ipynb_is_generated_from_the_py_byte_for_byte_without_outputs(name, tmp_path):
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "notebooks" / f"{name}.py", tmp_path / "notebooks")
    fresh = tmp_path / "notebooks" / f"{name}.ipynb"
    for command in (
        ["jupytext", "--quiet", "--to", "ipynb", str(fresh.with_suffix(".py"))],
        ["nbstripout", str(fresh)],
    ):
        subprocess.run([Path(sys.executable).parent / command[0], *command[1:]], check=True, cwd=tmp_path)
    assert fresh.read_bytes() == (ROOT / "notebooks" / f"{name}.ipynb").read_bytes(), "run `make notebooks`"


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_hold_no_logic(name):
    nodes = [node for source in code(name) for node in ast.walk(ast.parse(source))]
    assert not [ast.unparse(node) for node in nodes if isinstance(node, LOGIC)]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_heavy_is_imported_before_the_machine_is_looked_at(name):
    """Only the standard library and what is light of tc3lib: the rest may be what is missing or mismatched."""
    before, setup, _ = "\n".join(code(name)).partition("config, work = runtime.setup(")
    assert setup
    nodes = list(ast.walk(ast.parse(before)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    ours = {f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names <= sys.stdlib_module_names
    assert ours == {"tc3lib.runtime"}


@pytest.mark.parametrize("name", NAMES)
def test_every_code_cell_follows_a_sentence(name):
    kinds = [cell.cell_type for cell in cells(name)]
    assert kinds[0] == "markdown"
    for before, kind in pairwise(kinds):
        assert kind == "markdown" or before == "markdown"


@pytest.mark.parametrize("name", NAMES)
def test_the_header_names_what_the_stage_reads_writes_and_needs(name):
    stage = runtime.STAGES[name]
    table = cells(name)[0].source.splitlines()[-1]
    reads, writes, needs = (column.strip() for column in table.strip("|").split("|"))
    assert re.findall(r"`([^`]+)`", reads) == list(stage.reads or ("trn.json",))
    assert re.findall(r"`([^`]+)`", writes) == list(stage.writes)
    assert needs == ("GPU (`smollm2`, `tiny`: CPU)" if stage.gpu else "CPU")


@pytest.mark.parametrize("name", NAMES)
def test_the_badge_opens_this_notebook_at_the_released_tag(name):
    path = f"{REPOSITORY.removeprefix('https://')}/blob/v{tc3lib.__version__}/notebooks/{name}.ipynb"
    assert f"(https://colab.research.google.com/{path.replace('github.com', 'github', 1)})" in cells(name)[0].source


def test_the_set_up_cell_is_the_first_and_the_same_everywhere():
    """What it does is in test_packages.py."""
    firsts = [next(cell for cell in cells(name) if cell.cell_type == "code") for name in NAMES]
    assert {(cell.source, *cell.metadata["tags"]) for cell in firsts} == {(firsts[0].source, "setup")}
    assert firsts[0].source.startswith("!test -d /content && pip install ")


def test_the_preset_is_a_form_field_of_01_alone_with_every_preset():
    fields = {name: [cell for cell in cells(name) if "parameters" in cell.metadata.get("tags", [])] for name in NAMES}
    (field,) = fields.pop("01_prepare")
    found = re.fullmatch(r'preset = "llama3_8b"  # @param (\[.*\])', field.source)
    assert json.loads(found[1]) == list(presets.PRESETS)
    assert not any(fields.values())
    assert not [name for name in fields if "@param" in "".join(code(name))]


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_cell_is_open_to_changes_and_its_example_holds(name):
    source = next(source for source in code(name) if "runtime.setup(" in source)
    field = r"    preset,\n" if name == "01_prepare" else ""
    example = re.fullmatch(rf'config, work = runtime\.setup\(\n    "{name}",\n{field}    # (.*),\n\)', source)[1]
    exec(f"settings.get('llama3_8b').change({example})", {"settings": settings})


def test_an_edit_made_in_colab_comes_back_and_nothing_else_does(tmp_path):
    for name in ("notebooks", "pyproject.toml", "Makefile", "requirements-cpu.txt"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    notebook = json.loads((ROOT / "notebooks" / "03_train.ipynb").read_text())
    notebook["metadata"] |= {
        "colab": {"name": "03_train.ipynb", "toc_visible": True},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook["cells"]):
        cell["metadata"] |= {"id": f"x{number}", "colab": {"base_uri": "https://localhost:8080/"}, "outputId": "y"}
        if cell["cell_type"] == "code":
            cell["execution_count"] = number
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["hello"]}]
        cell["source"] = [line.replace("# max_steps=120", "# max_steps=240") for line in cell["source"]]
    (tmp_path / "from colab.ipynb").write_text(json.dumps(notebook))
    ready = tmp_path / ".ready"
    ready.touch()
    command = ["make", "from-colab", "NB=03_train", "FROM=from colab.ipynb", f"BIN={Path(sys.executable).parent}"]
    subprocess.run([*command, f"READY={ready}"], cwd=tmp_path, check=True, capture_output=True)
    edited = (ROOT / "notebooks" / "03_train.py").read_text().replace("max_steps=120", "max_steps=240")
    assert (tmp_path / "notebooks" / "03_train.py").read_text() == edited
    regenerated = (tmp_path / "notebooks" / "03_train.ipynb").read_text()
    original = (ROOT / "notebooks" / "03_train.ipynb").read_text()
    assert regenerated == original.replace("max_steps=120", "max_steps=240")
