"""`import tc3lib` and every module of it stay light: a fresh interpreter says so."""

import subprocess
import sys
from pathlib import Path

import pytest

import tc3lib

MODULES = sorted(p.stem for p in Path(tc3lib.__file__).parent.glob("*.py") if not p.stem.startswith("__"))
HEAVY = ["torch", "unsloth", "trl", "peft", "transformers", "datasets", "matplotlib", "pandas", "numpy", "google.colab"]
CODE = """
import importlib, sys, time
start = time.perf_counter()
importlib.import_module({name!r})
print(time.perf_counter() - start)
print(*(heavy for heavy in {heavy!r} if heavy in sys.modules))
"""


@pytest.mark.parametrize("name", ["tc3lib", *(f"tc3lib.{module}" for module in MODULES)])
def test_a_module_imports_no_heavy_package_and_takes_under_200_ms(name):
    seconds = []
    for _ in range(3):
        code = CODE.format(name=name, heavy=HEAVY)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        time_line, heavy = done.stdout.splitlines()
        assert heavy == ""
        assert done.stderr == ""
        seconds.append(float(time_line))
    assert min(seconds) < 0.2


def test_every_module_of_the_design_is_there():
    assert {
        "callbacks", "checkpoints", "config", "data", "evaluation", "generation", "models", "planning", "plotting",
        "presets", "prompts", "runtime", "training",
    } <= set(MODULES)  # fmt: skip


@pytest.mark.parametrize(("package", "owner"), [("unsloth", "models.py"), ("google.colab", "runtime.py")])
def test_one_module_alone_imports_unsloth_and_one_google_colab(package, owner):
    root = Path(tc3lib.__file__).parent
    users = {
        p.name for p in root.glob("*.py") if f"from {package} " in p.read_text() or f"import {package}" in p.read_text()
    }
    assert users == {owner}
