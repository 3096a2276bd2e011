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
TEXTS = ["README.md", "README.pt-BR.md", "CONTRIBUTING.md", "CHANGELOG.md", *sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "notebooks").glob("*.py")
)]  # fmt: skip
PAGES = ["docs/troubleshooting.md", "docs/troubleshooting.pt-BR.md"]


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
    for owner in re.findall(r"(?:colab\.research\.google\.com/github|github\.com)/([\w.-]+/[\w.-]+)", text):
        if owner.endswith("tc3lib"):
            assert owner == path
    for tag in re.findall(r"/blob/(v[^/]+)/notebooks/", text):
        assert tag == f"v{tc3lib.__version__}"


@pytest.mark.parametrize("name", ["README.md", "README.pt-BR.md", "CONTRIBUTING.md", "data/README.md", *PAGES])
def test_relative_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [target for target in targets if not (ROOT / name).parent.joinpath(target).exists()] == []


def test_the_two_readmes_have_the_same_structure():
    english, portuguese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.pt-BR.md"))

    def shape(text):
        blocks = re.findall(r"^```.*?^```", text, re.M | re.S)
        outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        headings = [len(level) for level in re.findall(r"^(#+) ", outside, re.M)]
        rows, bullets = (len(re.findall(start, outside, re.M)) for start in (r"^\|", r"^- "))
        links = sorted(re.findall(r"\]\(([^)]+)\)", outside.replace(".pt-BR.md)", ".md)")))
        return headings, blocks, rows, bullets, links

    assert shape(english) == shape(portuguese)


def test_every_module_and_requirements_file_has_its_row():
    readme = (ROOT / "README.md").read_text()
    listed = set(re.findall(r"`((?:tc3lib/\w+\.py)|requirements-\w+\.txt)`", readme.split("## What is where")[1]))
    there = {f"tc3lib/{path.name}" for path in (ROOT / "tc3lib").glob("*.py")}
    there |= {path.name for path in ROOT.glob("requirements-*.txt")}
    assert listed >= there


def test_the_two_pages_on_trouble_have_the_same_structure():
    english, portuguese = ((ROOT / name).read_text(encoding="utf-8") for name in PAGES)

    def shape(text):
        blocks = re.findall(r"^```.*?^```", text, re.M | re.S)
        outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        order = re.findall(r"^(#+) |^(\d\.|-) ", outside, re.M)
        links = re.findall(r"\]\(([^)]+)\)", outside.partition("\n## ")[2])
        return order, blocks, links, sorted(re.findall(r"`[^`]+`", outside))

    assert shape(english) == shape(portuguese)


@functools.cache
def said():
    """File by file, every piece of text that is no docstring, between what f-strings fill in."""
    found = {}
    for path in sorted([*(ROOT / "tc3lib").glob("*.py"), *(ROOT / "notebooks").glob("*.py")]):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        constants = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docs]
        found[path.name] = [node.value for node in constants if isinstance(node.value, str)]
    return found


MESSAGES = re.findall(r"^```text\n(.*?)\n```", (ROOT / PAGES[0]).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message[:40])
def test_every_message_on_trouble_is_what_a_module_or_notebook_says(message):
    pieces = [piece.strip(" '.;:?") for piece in message.split("…")]
    pieces = [piece for piece in pieces if len(piece) > 2]
    assert max(map(len, pieces)) > 14
    lacking = [[piece for piece in pieces if not any(piece in text for text in texts)] for texts in said().values()]
    assert min(lacking, key=len) == []


def test_there_are_messages_of_each_trouble():
    sections = re.split(r"^## ", (ROOT / PAGES[0]).read_text(encoding="utf-8"), flags=re.M)[1:-1]
    assert len(sections) == 9
    assert all("```text" in section for section in sections)


def test_the_five_lines_of_contributing_are_a_preset():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Add a preset")[2].partition("\n## ")[0]
    function, table = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len((function + table).splitlines()) == 5
    old = "_PRESETS = {function.__name__: function for function in (llama3_8b, tiny)}\n"
    source = (ROOT / "tc3lib" / "settings.py").read_text(encoding="utf-8")
    assert source.count(old) == 1
    namespace = {"__file__": str(ROOT / "tc3lib" / "settings.py"), "__name__": "presets"}
    exec(source.replace(old, f"{function}\n\n{table}"), namespace)
    short, recipe = namespace["get"]("short"), namespace["get"]("llama3_8b")
    assert (short.preset, short.model.max_seq_length) == ("short", 1024)
    assert short == dataclasses.replace(recipe.change(
        max_seq_length=1024, per_device_train_batch_size=4, gradient_accumulation_steps=8
    ), preset="short")  # fmt: skip
    assert "TC3_PRESET=short" in text


@pytest.mark.parametrize("name", ["README.md", "README.pt-BR.md", "CONTRIBUTING.md", *PAGES])
def test_every_make_target_that_is_named_is_there(name):
    named = set(re.findall(r"(?:^|`)(?:PYTHON=\S+ )?make (?:PYTHON=\S+ )?([a-z-]+)", (ROOT / name).read_text(), re.M))
    there = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    assert named and named <= there


def test_the_settings_on_trouble_and_data_are_settings():
    from tc3lib import settings

    for name in (*PAGES, "data/README.md"):
        for block in re.findall(r"\.change\((.*?)^\)", (ROOT / name).read_text(encoding="utf-8"), re.M | re.S):
            exec(f"settings.llama3_8b().change({block})", {"settings": settings})


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


@pytest.mark.parametrize("path", sorted((ROOT / "tc3lib").glob("*.py")), ids=lambda path: path.name)
def test_modules_stay_small_and_import_one_way(path):
    allowed = {
        "config": {"errors"},
        "errors": set(),
        "presets": {"config", "errors"},
        "prompts": {"errors"},
        "files": {"errors"},
        "blocks": set(),
        "tables": {"blocks", "errors"},
        "delimited": {"blocks", "errors", "tables"},
        "workbooks": {"blocks", "errors", "tables"},
        "sources": {"blocks", "delimited", "errors", "tables", "workbooks"},
        "cleaning": set(),
        "records": {"blocks", "cleaning", "prompts"},
        "workers": {"blocks", "errors", "records", "sources"},
        "data": {
            "blocks", "cleaning", "config", "errors", "files", "records", "sources", "tables", "workers",
        },
        "sampling": {"config", "errors", "files", "prompts"},
        "attention": set(),
        "batches": set(),
        "labels": {"errors", "prompts"},
        "models": {"attention", "config", "errors"},
        "planning": {"config"},
        "callbacks": {"errors"},
        "store": set(),
        "processes": {"errors"},
        "agreement": {"callbacks", "processes"},
        "saving": {"agreement", "callbacks", "errors", "files", "processes", "store"},
        "graphs": {"attention", "batches", "models"},
        "trainer": {"batches", "errors", "graphs", "models", "processes"},
        "checkpoints": {"callbacks", "config", "errors", "files", "processes", "prompts", "store"},
        "training": {
            "attention", "batches", "callbacks", "checkpoints", "config", "errors", "files", "graphs", "planning",
            "plotting", "processes", "prompts", "saving", "trainer",
        },
        "generation": {"config", "errors", "files", "planning", "processes", "prompts"},
        "metrics": {"prompts"},
        "evaluation": {"config", "errors", "files", "generation", "metrics", "prompts"},
        "comparison": {"config", "errors", "evaluation", "files", "metrics"},
        "plotting": {"files", "prompts"},
        "report": {"errors", "files", "prompts"},
        "lookup": {"cleaning", "errors", "prompts"},
        "asking": {"config", "errors", "generation", "lookup", "prompts"},
        "demo": {"asking", "checkpoints", "config", "errors", "files", "lookup", "models", "presets", "runtime"},
        "colab": {"__version__", "errors"},
        "preflight": {"colab", "config", "errors"},
        "runtime": {"config", "errors", "preflight", "processes"},
        "describe": {
            "blocks", "checkpoints", "cleaning", "config", "data", "errors", "files", "generation", "models", "presets",
            "processes", "runtime", "sources",
        },
        "bars": {"errors", "files"},
        "__init__": set(),
        "__main__": {"runtime"},
    }  # fmt: skip
    text = path.read_text()
    found = set(re.findall(r"^\s*from tc3lib\.(\w+) import", text, re.M))
    for names in re.findall(r"^\s*from tc3lib import (.+)$", text, re.M):
        found |= {name.strip() for name in names.split(",")}
    assert found <= allowed[path.stem]
    assert len(text.splitlines()) <= 300


def test_clean_leaves_runs_that_are_not_makes_own(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    kept, gone = ("runs/llama3_8b", ".venv-gpu"), (".venv", ".venv-colab", "runs/tiny", "runs/colab")
    for folder in (*kept, *gone):
        (tmp_path / folder).mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert [folder for folder in (*kept, *gone) if (tmp_path / folder).exists()] == list(kept)
