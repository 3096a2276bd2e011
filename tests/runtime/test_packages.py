"""The set-up cell, run as a shell and as a kernel run it, against local files; and the wheel that it installs."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from release import CELL, REPOSITORY, URL, pack

import tc3lib
from tc3lib.runtime import packages

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUP = "from tc3lib import runtime, settings; runtime.setup({stage!r}, 'tiny')"


def distribution(folder, name, version, size=0):
    """Write a wheel with one module and a file of so many bytes."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"__version__ = '{version}'\n")
        archive.writestr(f"{name}.bin", bytes(size))
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


class Machine:
    """A machine like Colab's: `/content`, an environment of its own with the packages of this one, no network."""

    def __init__(self, folder, release):
        self.folder, self.content, self.wheels = folder, folder / "content", folder / "wheels"
        self.requirements, self.python = folder / "requirements.txt", folder / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        self.site = Path(sysconfig.get_path("purelib", "posix_prefix", {"base": str(folder / "venv")}))
        (self.site / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.content.mkdir()
        self.wheels.mkdir()
        distribution(self.wheels, "tc3tiny", "1.0")
        self.publish(release)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("TC3", "PYTHON"))}
        self.environment |= {
            "PIP_PYTHON": str(self.python), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_RETRIES": "0",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip's word for: with the setuptools that is here
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip

    def publish(self, release):
        self.requirements.write_text(f"tc3lib @ {release.as_uri()}\ntc3tiny==1.0\n")

    def cell(self, url=None):
        assert URL in CELL
        return CELL.replace("/content", str(self.content)).replace(URL, url or str(self.requirements))

    def call(self, *command):
        return subprocess.run(
            [*map(str, command)], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )

    def shell(self, *words, url=None):
        """Run the cell as IPython does."""
        return self.call(*words, "sh", "-c", self.cell(url).removeprefix("!"))

    def run(self, code):
        return self.call(self.python, "-c", code)

    def notebook(self, monkeypatch, *cells):
        """Run cells in a kernel of the machine's environment."""
        spec = self.folder / "jupyter" / "kernels" / "machine" / "kernel.json"
        spec.parent.mkdir(parents=True)
        argv = [str(self.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec.write_text(json.dumps({"argv": argv, "display_name": "machine", "env": self.environment}))
        monkeypatch.setenv("JUPYTER_PATH", str(self.folder / "jupyter"))
        monkeypatch.setenv("IPYTHONDIR", str(self.folder / "ipython"))
        monkeypatch.delenv("PYTHONPATH", raising=False)
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        client = NotebookClient(notebook, kernel_name="machine", resources={"metadata": {"path": str(self.folder)}})
        return notebook, client


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def wheel(release):
    """The release, built once."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", release.parent, release], check=True)
    return next(release.parent.glob("*.whl"))


@pytest.fixture
def machine(tmp_path, wheel):
    return Machine(tmp_path, wheel)


@pytest.fixture(scope="module")
def installed(tmp_path_factory, release):
    """A machine on which the cell has run."""
    machine = Machine(tmp_path_factory.mktemp("machine"), release)
    done = machine.shell()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return machine


@pytest.fixture
def small_disk():
    """Return a function: the words before a command that runs it with a disk of 256 kB at a folder."""
    mount = 'mount -t tmpfs -o size=256k none "$0" || exit 99; exec "$@"'

    def words(folder):
        return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(folder)]

    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare to mount a small disk with")
    tried = subprocess.run([*words("/mnt"), "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"this machine lets nobody mount a small disk: {tried.stderr.strip()}")
    return words


def test_the_cell_is_one_line_and_installs_this_version_with_its_pins():
    assert f"!test -d /content && pip install -q --no-deps -r {URL}" == CELL
    lines = [line for line in (ROOT / "requirements-colab.txt").read_text().splitlines() if line[0] != "#"]
    assert lines[0] == f"tc3lib @ {REPOSITORY}/archive/refs/tags/v{tc3lib.__version__}.tar.gz"
    assert all(re.fullmatch(r"[\w.-]+==[\w.!+]+", line) for line in lines[1:])


def test_outside_colab_it_does_nothing(machine):
    machine.content.rmdir()
    machine.environment["PATH"] = "/nowhere"
    done = machine.call("/bin/sh", "-c", machine.cell().removeprefix("!").replace("test", "/usr/bin/test", 1))
    assert (done.stdout, done.stderr) == ("", "")
    machine.content.mkdir()
    assert "pip" in machine.call("/bin/sh", "-c", machine.cell().removeprefix("!")).stderr  # here it would


def test_what_it_installs_has_all_that_the_small_run_needs(installed):
    """Away from the checkout: the catalogue and the model are those of `data/`, and runs go to the current folder."""
    code = f"""
import tc3lib, tc3tiny
{SETUP.format(stage="01_prepare")}
config = settings.get("tiny")
print(tc3lib.__file__, config.model.model_name, config.data.fallback_source, sep="\\n")
"""
    done = installed.run(code)
    assert done.returncode == 0, done.stderr
    *shown, said, module, model, catalogue = done.stdout.splitlines()
    assert said == f"preset tiny, work folder {installed.folder / 'runs' / 'tiny'}"
    assert (installed.folder / "runs" / "tiny").is_dir()
    assert Path(module).parent == installed.site / "tc3lib"
    compared = next(line for line in shown if line.split()[1] == "packages")
    assert f"tested, torch {packages.installed('torch')}" in compared
    pairs = [(Path(catalogue), ROOT / "data" / "trn.json")]
    pairs += [(Path(model) / path.name, path) for path in (ROOT / "data" / "base_model").iterdir()]
    assert len(pairs) == 6
    for found, expected in pairs:
        assert found.is_relative_to(installed.site)
        assert found.read_bytes() == expected.read_bytes()


def test_an_editable_checkout_uses_its_own_files(machine, release):
    source = release.parent / f"tc3lib-{tc3lib.__version__}"
    checkout = shutil.copytree(source, machine.folder / "checkout")
    done = machine.call(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--editable", checkout)
    assert done.returncode == 0, done.stderr
    done = machine.run(f"{SETUP.format(stage='01_prepare')}; print(settings.get('tiny').model.model_name)")
    assert done.returncode == 0, done.stderr
    *_, said, model = done.stdout.splitlines()
    assert said == f"preset tiny, work folder {checkout / 'runs' / 'tiny'}"
    assert model == str(checkout / "data" / "base_model")
    assert Path(model, "model.safetensors").is_file()


def test_a_wheel_reports_a_package_in_another_version_and_one_imported_before_its_pin(installed):
    """It compares with the requirement files that travel in it."""
    stale = installed.site / "trl-0.9.0.dist-info"
    stale.mkdir()
    (stale / "METADATA").write_text("Metadata-Version: 2.1\nName: trl\nVersion: 0.9.0\n")
    try:
        done = installed.run(SETUP.format(stage="01_prepare"))
    finally:
        shutil.rmtree(stale)
    pin = packages.pins(ROOT / "requirements-colab.txt")["trl"]
    assert f"packages     trl 0.9.0 (tested: {pin}): `make run` installs them" in done.stdout, done.stderr
    old = "import sys, types; sys.modules['trl'] = types.ModuleType('trl'); sys.modules['trl'].__version__ = '0.9.0'; "
    done = installed.run(old + SETUP.format(stage="02_pretest"))
    assert done.returncode == 1
    assert done.stderr == (
        "Tc3Error: trl 0.9.0 was imported before its pin was installed: choose Runtime > Restart session and run all "
        "again.\n"
    )


def test_a_session_that_imported_another_tc3lib_before_is_asked_to_restart(machine, wheel, tmp_path):
    machine.publish(pack(tmp_path, "0.0.1"))
    assert machine.shell().returncode == 0
    before = "import subprocess, tc3lib; from tc3lib import runtime; assert tc3lib.__version__ == '0.0.1'"
    machine.publish(wheel)
    cell = f"subprocess.run(['sh', '-c', {machine.cell().removeprefix('!')!r}], check=True)"
    done = machine.run(f"{before}; {cell}; {SETUP.format(stage='01_prepare')}")
    assert done.returncode == 1
    assert done.stderr.startswith("Tc3Error: tc3lib 0.0.1 was imported before its pin was installed: choose Runtime > ")
    done = machine.run(SETUP.format(stage="01_prepare"))  # a new session
    assert done.returncode == 0, done.stderr


def test_a_second_time_a_lost_network_does_no_harm(installed):
    done = installed.shell(url="http://127.0.0.1:9/requirements-colab.txt")
    assert done.returncode != 0
    assert installed.run("import tc3lib, tc3tiny").returncode == 0
    done = installed.shell()
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_network_pip_says_so_and_the_imports_cell_ends_the_notebook_in_a_line(machine, monkeypatch):
    cells = [machine.cell(url="http://127.0.0.1:9/requirements-colab.txt"), "import tc3lib", "print('after')"]
    notebook, client = machine.notebook(monkeypatch, *cells)
    with pytest.raises(CellExecutionError):
        client.execute()
    assert "ERROR: Could not install packages due to" in "".join(output.text for output in notebook.cells[0].outputs)
    (error,) = notebook.cells[1].outputs
    assert (error.ename, error.evalue) == ("ModuleNotFoundError", "No module named 'tc3lib'")
    assert notebook.cells[2].execution_count is None


def test_a_kernel_installs_imports_and_goes_on_without_a_restart(machine, monkeypatch):
    notebook, client = machine.notebook(monkeypatch, machine.cell(), SETUP.format(stage="01_prepare"))
    client.execute()
    assert notebook.cells[0].outputs == []
    assert "preset tiny, work folder" in notebook.cells[1].outputs[0].text


def test_a_version_that_is_not_in_the_index_and_a_full_disk_are_pips_own_errors(machine, small_disk):
    (machine.wheels / "tc3tiny-1.0-py3-none-any.whl").unlink()
    assert "No matching distribution found for tc3tiny==1.0" in machine.shell().stderr
    assert machine.run("import tc3lib").returncode == 1
    distribution(machine.wheels, "tc3tiny", "1.0", size=2**20)
    machine.requirements.write_text("tc3tiny==1.0\n")
    (machine.site / "parent.pth").unlink()
    assert "[Errno 28] No space left on device" in machine.shell(*small_disk(machine.site)).stderr


def test_what_was_imported_is_compared_with_what_is_installed(monkeypatch):
    module = ModuleType("pip")
    module.__version__ = packages.installed("pip")
    monkeypatch.setitem(sys.modules, "pip", module)
    monkeypatch.setitem(sys.modules, "no_such_package", module)  # without metadata: a checkout that is in the path
    assert packages.imported_before(["pip", "no-such-package", "not-imported"]) == []
    module.__version__ = "0.1"
    assert packages.imported_before(["pip", "no-such-package"]) == ["pip 0.1"]


def test_the_pins_of_a_file(tmp_path):
    assert packages.pins(tmp_path / "x.txt") == {}
    pins = packages.pins(packages.COLAB)
    assert pins["trl"] == packages.installed("trl")
    assert "tc3lib" not in pins


def test_every_package_is_in_the_list_of_pyproject():
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "tc3lib").rglob("__init__.py")}
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted([*(".".join(folder.parts) for folder in folders), "tc3lib.root"])
