"""What must agree between the repository's files."""

import ast
import dataclasses
import functools
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import tc3lib

ROOT = Path(__file__).parents[2]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
TEXTS = ["README.md", "README.pt-BR.md", "CONTRIBUTING.md", "CHANGELOG.md", "requirements-colab.txt", *sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "notebooks").glob("*.py")
)]  # fmt: skip
TROUBLE = ["docs/troubleshooting.md", "docs/troubleshooting.pt-BR.md"]
TWINS = sorted(str(path.relative_to(ROOT)) for folder in (ROOT, ROOT / "docs") for path in folder.glob("*.pt-BR.md"))
PAGES = [name for twin in TWINS for name in (twin.replace(".pt-BR", ""), twin)]


def pins(name):
    found = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / name).read_text(), re.M)
    return {package.lower().replace("_", "-"): version for package, version in found}


def test_colab_and_local_pins_agree():
    local, colab = pins("requirements-cpu.txt"), pins("requirements-colab.txt")
    shared = local.keys() & colab.keys()
    assert {"unsloth", "unsloth-zoo", "trl", "peft", "transformers", "datasets", "bitsandbytes"} <= shared
    assert {name: local[name] for name in shared} == {name: colab[name] for name in shared}


def test_what_is_installed_is_what_is_pinned():
    from importlib.metadata import version

    local = pins("requirements-cpu.txt")
    assert {name: version(name) for name in local} == local


def test_colab_gets_what_only_a_gpu_needs_and_keeps_its_torch():
    colab = pins("requirements-colab.txt")
    assert "xformers" in colab
    assert "torch" not in colab


@pytest.mark.parametrize("name", TEXTS)
def test_the_repositorys_address_and_tag_are_those_of_pyproject(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    path = REPOSITORY.removeprefix("https://github.com/")
    hosts = r"colab\.research\.google\.com/github|github\.com|raw\.githubusercontent\.com"
    for owner in re.findall(rf"(?:{hosts})/([\w.-]+/[\w.-]+)", text):
        if owner.endswith("tc3lib"):
            assert owner == path
    tags = re.findall(r"/(?:blob|archive/refs/tags|tc3lib/tc3lib)/(v\d[\d.]*\d)", text)
    assert set(tags) <= {f"v{tc3lib.__version__}"}
    assert tags or name in ("CONTRIBUTING.md", "CHANGELOG.md")


@pytest.mark.parametrize("name", [*PAGES, "CONTRIBUTING.md", "data/README.md", "benchmarks/RESULTS.md"])
def test_relative_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [target for target in targets if not (ROOT / name).parent.joinpath(target).exists()] == []


def test_every_page_is_there_in_both_languages():
    english = {path.name for path in (ROOT / "docs").glob("*.md") if not path.name.endswith(".pt-BR.md")}
    assert {twin.rpartition("/")[2].replace(".pt-BR", "") for twin in TWINS} == english | {"README.md"}


@pytest.mark.parametrize("twin", TWINS)
def test_both_languages_have_the_same_structure(twin):
    english, portuguese = ((ROOT / name).read_text(encoding="utf-8") for name in (twin.replace(".pt-BR", ""), twin))

    def shape(text):
        blocks = re.findall(r"^```.*?^```", text, re.M | re.S)
        outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        order = re.findall(r"^(#+) |^(\d\.|-|\|) ", outside, re.M)
        links = re.findall(r"\]\(([^)]+)\)", outside.replace(".pt-BR.md)", ".md)"))
        return order, blocks, sorted(links), sorted(re.findall(r"`[^`]+`", outside.replace(".pt-BR.md`", ".md`")))

    assert shape(english) == shape(portuguese)


def test_every_folder_file_and_requirements_file_has_its_row():
    """The table names every package and module of the library, and nothing that is not there."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What is where\n")[2]
    rows = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \| (.*) \|$", table, re.M)
    named = {path: meaning for paths, meaning in rows for path in re.findall(r"`([^`]+)`", paths)}
    assert [path for path in named if not (ROOT / path).exists()] == []
    library = {str(path.relative_to(ROOT)) for path in (ROOT / "tc3lib").glob("*.py")} - {"tc3lib/__init__.py"}
    packages = {f"tc3lib/{path.parent.name}/" for path in (ROOT / "tc3lib").glob("*/__init__.py")}
    assert named.keys() >= library | packages | {path.name for path in ROOT.glob("requirements-*.txt")}
    for package in packages:
        modules = {path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
        assert set(re.findall(r"`(\w+\.py)`", named[package])) == modules


@functools.cache
def said():
    """File by file, every piece of text that is no docstring, between what f-strings fill in."""
    found = {}
    for path in sorted([*(ROOT / "tc3lib").rglob("*.py"), *(ROOT / "notebooks").glob("*.py")]):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        constants = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docs]
        found[path] = [node.value for node in constants if isinstance(node.value, str)]
    return found


MESSAGES = re.findall(r"^```text\n(.*?)\n```", (ROOT / TROUBLE[0]).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message[:40])
def test_every_message_on_trouble_is_what_a_module_or_notebook_says(message):
    pieces = [piece.strip(" '.;:?") for piece in message.split("…")]
    pieces = [piece for piece in pieces if len(piece) > 2]
    assert max(map(len, pieces)) > 14
    lacking = [[piece for piece in pieces if not any(piece in text for text in texts)] for texts in said().values()]
    assert min(lacking, key=len) == []


def test_there_are_messages_of_each_trouble():
    sections = re.split(r"^## ", (ROOT / TROUBLE[0]).read_text(encoding="utf-8"), flags=re.M)[1:-1]
    assert len(sections) == 9
    assert all("```text" in section for section in sections)


def test_the_five_lines_of_contributing_are_a_preset():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Add a preset")[2].partition("\n## ")[0]
    function, table = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len((function + table).splitlines()) == 5
    old = re.sub(r", short\)", ")", table)
    source = (ROOT / "tc3lib" / "presets.py").read_text(encoding="utf-8")
    assert source.count(old) == 1
    exec(source.replace(old, f"{function}\n\n{table}"), namespace := {})
    short, recipe = (namespace["PRESETS"][name]() for name in ("short", "llama3_8b"))
    assert (short.preset, short.model.max_seq_length) == ("short", 1024)
    assert short == dataclasses.replace(recipe.change(
        max_seq_length=1024, per_device_train_batch_size=4, gradient_accumulation_steps=8
    ), preset="short")  # fmt: skip
    assert "TC3_PRESET=short" in text


@pytest.mark.parametrize("name", [*PAGES, "CONTRIBUTING.md"])
def test_every_make_target_that_is_named_is_there(name):
    named = set(re.findall(r"(?:^|`)(?:PYTHON=\S+ )?make (?:PYTHON=\S+ )?([a-z-]+)", (ROOT / name).read_text(), re.M))
    there = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    assert named <= there
    assert named or name.removesuffix(".md").removesuffix(".pt-BR") in ("docs/licences", "docs/speed")


def test_the_settings_on_trouble_and_data_are_settings():
    from tc3lib import settings

    for name in (*PAGES, "data/README.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        start = r'(?:\.change\(|runtime\.setup\(\n    "\w+",\n(?:    preset,\n)?)'
        for block in re.findall(rf"{start}(.*?)^\)", text, re.M | re.S):
            exec(f"settings.get('llama3_8b').change({block})", {"settings": settings})


def test_githubs_workflow_does_what_ci_does_on_both_ends_of_the_supported_pythons():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert all(isinstance(version, str) for version in versions)  # 3.10 would be the number 3.1
    assert project["requires-python"] == f">={versions[0]}"
    assert f"Python {versions[0]} to {versions[-1]}" in (ROOT / "README.md").read_text()
    assert job["env"]["PYTHON"] == "python${{ matrix.python }}"
    assert {"push", "pull_request"} <= workflow[True].keys()  # YAML 1.1 reads `on` as true
    steps = job["steps"]
    used = [step["uses"].partition("@")[0] for step in steps if "uses" in step]
    assert used == ["actions/checkout", "actions/setup-python", "actions/upload-artifact"]
    assert steps[1]["with"]["python-version"] == "${{ matrix.python }}"
    commands = [step["run"] for step in steps if "run" in step]
    assert commands == [".ci/run", "make run"]
    assert os.access(ROOT / commands[0], os.X_OK)
    assert [step["if"] for step in steps[-2:]] == ["${{ !cancelled() }}"] * 2  # both after a red .ci/run too
    notebooks, pictures = (path.rpartition("/") for path in steps[-1]["with"]["path"].split())
    assert (notebooks[2], pictures[2]) == ("*.ipynb", "*.png")
    assert f"--output-dir {notebooks[0]} " in planned("run", ROOT / "README.md")
    assert pictures[0] == job["env"]["TC3_PICTURES"]


def planned(target, ready):
    command = ["make", "-n", "--no-print-directory", target, f"READY={ready}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("target", "job"), [("run", "nbconvert"), ("test", "-m pytest")])
def test_two_commands_install_once_and_do_their_job(tmp_path, target, job):
    """What make would do, without doing it: in a new clone, the second time, and after new pins."""
    ready = tmp_path / "ready"
    first = planned(target, ready)
    assert first.index("-m venv .venv") < first.index("pip install") < first.index(job)
    ready.touch()
    second = planned(target, ready)
    assert job in second
    assert "install" not in second
    os.utime(ready, (0, 0))
    assert "pip install" in planned(target, ready)


def test_make_run_leaves_executed_notebooks_and_a_summary():
    lines = planned("run", ROOT / "README.md").splitlines()
    assert any("nbconvert" in line and "--execute --output-dir runs/tiny" in line for line in lines)
    assert lines[-1].endswith("python -m tc3lib runs/tiny")


def test_ci_calls_make_test_and_make_browser():
    assert {"make test", "make browser"} <= set((ROOT / ".ci" / "run").read_text().splitlines())
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_clean_leaves_runs_that_are_not_makes_own(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    kept, gone = ("runs/llama3_8b", ".venv-gpu"), (".venv", ".venv-colab", "runs/tiny", "runs/colab")
    for folder in (*kept, *gone):
        (tmp_path / folder).mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert [folder for folder in (*kept, *gone) if (tmp_path / folder).exists()] == list(kept)
