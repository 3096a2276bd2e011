"""The house stands as it was drawn: which package may import which, what stays light, who owns a dependency."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "tc3lib"
BASE = {"errors", "settings", "files", "prompts"}
ALLOWED = {
    "errors": set(),
    "settings": {"errors", "presets"},  # presets in `settings.get`, the door that callers know
    "presets": {"settings"},
    "files": {"errors"},
    "prompts": {"errors", "settings"},
    "runtime": {"errors", "settings", "files"},
    "model_loading": BASE,
    "plotting": BASE,
    "catalogue": BASE,
    "checkpoints": {*BASE, "runtime"},
    "training": {*BASE, "runtime", "model_loading", "plotting", "checkpoints"},
    "export": {*BASE, "runtime", "checkpoints"},
    "evaluation": {*BASE, "runtime", "model_loading", "plotting", "catalogue", "export"},
}
"""Those that are run, `describe`, `demo` and `__main__`, may import anything."""

HEAVY = ["torch", "unsloth", "trl", "peft", "transformers", "datasets", "matplotlib", "pandas", "numpy", "google.colab"]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
LIGHT = [
    "errors", "files", "presets", "prompts", "settings", "describe", "demo", "__main__", "checkpoints.store",
    "checkpoints.run_record", *(name for name in MODULES if name.partition(".")[0] in ("catalogue", "runtime")),
]  # fmt: skip


def imported(path):
    """Return the modules that a file imports anywhere, with what it imports of them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if name.partition(".")[0] in ALLOWED])
def test_a_module_imports_only_from_packages_below_its_own(name):
    package = name.partition(".")[0]
    used = {module.split(".")[1] for module in imported(MODULES[name]) if module.startswith("tc3lib.")}
    assert used & ALLOWED.keys() <= {*ALLOWED[package], package}


def test_every_part_of_the_house_has_its_row():
    run = {"__init__", "__main__", "describe", "demo"}
    assert {name.partition(".")[0] for name in MODULES} == {*ALLOWED, *run}


@pytest.mark.parametrize(
    ("package", "owners"),
    [
        ("unsloth", {"model_loading"}),
        ("vllm", {"evaluation.vllm_engine"}),
        ("google", {"runtime.drive"}),
        ("trl", {"training"}),
    ],
)
def test_one_place_alone_imports_unsloth_vllm_google_colab_and_trl(package, owners):
    users = {
        name for name, path in MODULES.items() if any(used.partition(".")[0] == package for used in imported(path))
    }
    assert users
    assert all(any(user.startswith(owner) for owner in owners) for user in users)


@pytest.mark.parametrize("name", LIGHT)
def test_a_light_module_imports_no_heavy_package(name):
    code = f"import sys, tc3lib.{name}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert set(done.stdout.split()).isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "name", ["evaluation.asking", "evaluation.comparison", "evaluation.report", "evaluation.metrics", "plotting"]
)
def test_what_01_the_report_and_the_page_import_never_reaches_unsloth(name):
    code = f"import sys, tc3lib.{name}; print(*{{'torch', 'transformers', 'unsloth'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("package", ["training", "evaluation.generation", "evaluation.questions"])
def test_unsloth_comes_before_what_it_patches(package):
    code = f"""
import builtins, sys
early, old = [], builtins.__import__
def watch(name, *given, **named):
    root = name.partition(".")[0]
    if root == "unsloth":
        print("unsloth after", early)
        sys.exit()
    if root in ("transformers", "trl", "peft"):
        early.append(name)
    return old(name, *given, **named)
builtins.__import__ = watch
import tc3lib.{package}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "unsloth after []\n"
