"""The set-up cell, run as a kernel would: outside Colab, and in it against a local repository and package folder."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import tc3lib
from tc3lib.errors import Tc3Error
from tc3lib.runtime import packages as colab

ROOT = Path(__file__).parents[2]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
TAG = f"v{tc3lib.__version__}"
CELL = next(
    cell.source for cell in jupytext.read(ROOT / "notebooks" / "01_prepare.py").cells if cell.cell_type == "code"
)
FOLDER = f"tc3lib-{TAG}"
NOT_FETCHED = "IPython.core.error.UsageError: tc3lib was not fetched, mend this and run the cell again"
KERNEL = """
import sys, types
if {in_colab}:
    sys.modules["google"] = types.ModuleType("google")
    sys.modules["google.colab"] = types.ModuleType("google.colab")
{before}
exec(compile({cell!r}, "cell", "exec"), {{"__name__": "__main__"}})
{after}
"""
AFTER = "import tc3lib, tc3tiny; print(tc3lib.__file__, tc3tiny.__version__)"


def wheel(folder, version, size=0):
    """Write a wheel of a package `tc3tiny`, as small as one can be, with a file of so many bytes."""
    info = f"tc3tiny-{version}.dist-info"
    with zipfile.ZipFile(folder / f"tc3tiny-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr("tc3tiny.py", f"__version__ = '{version}'\n")
        archive.writestr("tc3tiny.bin", bytes(size))
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tc3tiny\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def git(*arguments, cwd):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True)


class Machine:
    """A machine like Colab's: `/content`, packages that pip installs, a repository with a tag, an index."""

    def __init__(self, folder):
        self.folder, self.content, self.site = folder, folder / "content", folder / "site"
        self.origin, self.wheels, self.bin = folder / "origin" / "tc3lib", folder / "wheels", folder / "bin"
        for path in (self.content, self.origin, self.wheels, self.bin, self.site):
            path.mkdir(parents=True)
        wheel(self.wheels, "1.0")
        (self.origin / "tc3lib").mkdir()
        for name in ("__init__.py", "colab.py", "errors.py"):
            shutil.copy(ROOT / "tc3lib" / name, self.origin / "tc3lib")
        (self.origin / "requirements-colab.txt").write_text("# pins\ntc3tiny==1.0\n")
        git("init", "-q", cwd=self.origin)
        git("add", ".", cwd=self.origin)
        git("commit", "-qm", "x", cwd=self.origin)
        git("tag", TAG, cwd=self.origin)
        self.environment = {
            **os.environ, "PYTHONPATH": str(self.site), "PIP_TARGET": str(self.site), "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels), "LC_ALL": "C.UTF-8",
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip

    def run(self, in_colab=True, before="", after=AFTER, origin=None, tag=TAG, command=()):
        cell = CELL.replace("/content", str(self.content)).replace(REPOSITORY, origin or self.origin.as_uri())
        cell = cell.replace(f"--branch {TAG}", f"--branch {tag}")
        script = KERNEL.format(cell=cell, before=before, after=after, in_colab=in_colab)
        return subprocess.run(
            [*command, sys.executable, "-c", script], cwd=self.folder, env=self.environment, capture_output=True,
            text=True,
        )  # fmt: skip

    def refused(self, **arguments):
        """Return the one line with which the cell fails."""
        done = self.run(**arguments)
        assert done.returncode == 1
        assert done.stdout == ""
        return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def small_disk():
    """Return a function: the words before a command that runs it with a disk of 256 kB at a folder, and lists that."""
    mount = 'mount -t tmpfs -o size=256k none "$0" || exit 99; "$@"; status=$?; ls -A "$0"; exit $status'

    def words(folder):
        return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(folder)]

    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare to mount a small disk with")
    tried = subprocess.run([*words("/mnt"), "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"this machine lets nobody mount a small disk: {tried.stderr.strip()}")
    return words


def test_outside_colab_it_runs_nothing_writes_nothing_and_changes_nothing(machine):
    watch = """
def watch(event, arguments):
    if event in ("subprocess.Popen", "os.system", "os.mkdir", "os.exec", "os.posix_spawn", "socket.connect"):
        raise SystemExit(f"{event} {arguments}")
    if event == "open" and set(str(arguments[1])) & set("wax+"):
        raise SystemExit(f"{event} {arguments}")
import runpy, subprocess
sys.addaudithook(watch)
path = list(sys.path)
"""
    after = "assert path == sys.path; assert 'tc3lib' not in sys.modules"
    done = machine.run(in_colab=False, before=watch, after=after)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(machine.content.iterdir()) == []
    assert "subprocess.Popen" in machine.run(before=watch).stderr  # the watch sees what the cell does in Colab


def test_in_colab_it_fetches_installs_and_says_so_in_a_line(machine):
    done = machine.run()
    assert done.stderr == ""
    said, library = done.stdout.splitlines()
    assert re.fullmatch(rf"tc3lib {tc3lib.__version__}: 1 packages installed in \d+ s", said)
    assert library == f"{machine.content / FOLDER / 'tc3lib' / '__init__.py'} 1.0"


def test_a_second_time_it_needs_neither_network_nor_pip(machine):
    machine.run()
    shutil.rmtree(machine.origin)
    shutil.rmtree(machine.wheels)
    done = machine.run()
    assert done.stdout.splitlines()[0] == f"tc3lib {tc3lib.__version__}: all packages are there"
    assert done.stderr == ""


def test_the_same_kernel_can_run_it_twice(machine):
    again = CELL.replace("/content", str(machine.content))
    count = f"print(sys.path.count({str(machine.content / FOLDER)!r}))"
    done = machine.run(after=f"exec(compile({again!r}, 'cell', 'exec')); {count}")
    assert done.stdout.splitlines()[1:] == [f"tc3lib {tc3lib.__version__}: all packages are there", "1"]


def test_a_wrong_tag_is_told_and_nothing_stays(machine):
    line = machine.refused(tag="v9.9.9")
    assert line.startswith(f"{NOT_FETCHED}: ")
    assert "Remote branch v9.9.9 not found" in line
    assert list(machine.content.iterdir()) == []
    assert machine.run().returncode == 0


def test_no_network_is_told(machine):
    line = machine.refused(origin="file:///nowhere/tc3lib")
    assert line.startswith(f"{NOT_FETCHED}: fatal: ")
    assert "/nowhere/tc3lib" in line
    assert list(machine.content.iterdir()) == []


def test_a_disk_that_fills_while_fetching_is_told_and_half_a_library_does_not_stay(machine):
    fake = machine.bin / "git"
    fake.write_text(
        f"#!/bin/sh\nmkdir -p {FOLDER}/tc3lib\necho 'error: unable to create file x: No space left on device' >&2\n"
        "echo 'fatal: unable to checkout working tree' >&2\nexit 128\n"
    )
    fake.chmod(0o755)
    assert machine.refused() == (
        f"{NOT_FETCHED}: error: unable to create file x: No space left on device fatal: unable to checkout working tree"
    )
    assert list(machine.content.iterdir()) == []
    fake.unlink()
    assert machine.run().returncode == 0


def test_a_library_that_was_half_fetched_is_fetched_again(machine):
    """As when the machine stopped in the middle: git writes its index when all files are there."""
    half = machine.content / FOLDER / "tc3lib"
    (half.parent / ".git").mkdir(parents=True)
    half.mkdir()
    (half / "colab.py").write_text("raise SystemExit('half a library')")
    done = machine.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert (half.parent / ".git" / "index").is_file()
    (half / "colab.py").unlink()  # what is whole is not looked at again
    assert "colab.py" in machine.run().stderr


def test_a_disk_that_is_full_is_told_by_git_itself_and_half_a_library_does_not_stay(machine, small_disk):
    (machine.origin / "big.bin").write_bytes(os.urandom(2**20))
    git("add", ".", cwd=machine.origin)
    git("commit", "-qm", "big", cwd=machine.origin)
    git("tag", "-f", TAG, cwd=machine.origin)
    line = machine.refused(command=small_disk(machine.content))  # the list of what is left, on stdout, is empty
    assert line.startswith(NOT_FETCHED)
    assert "No space left on device" in line


def test_a_disk_that_is_full_is_told_by_pip_itself(machine, small_disk):
    wheel(machine.wheels, "1.0", size=2**20)
    done = machine.run(command=small_disk(machine.site))
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert line.startswith("tc3lib.errors.Tc3Error: the packages of ")
    assert "[Errno 28] No space left on device" in line
    assert "(the disk is full: delete files" in line


def test_a_kernel_shows_one_line_and_runs_no_cell_after_it(machine, monkeypatch):
    """No traceback, and none of what IPython adds to `sys.exit`."""
    monkeypatch.setenv("IPYTHONDIR", str(machine.folder / "ipython"))
    source = CELL.replace("/content", str(machine.content)).replace(REPOSITORY, "file:///nowhere/tc3lib")
    colab = "import sys, types; sys.modules['google.colab'] = types.ModuleType('google.colab')"
    cells = [nbformat.v4.new_code_cell(text) for text in (colab, source, "print('after')")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with pytest.raises(CellExecutionError):
        NotebookClient(notebook, kernel_name="python3").execute()
    (shown,) = notebook.cells[1].outputs
    assert shown.text.startswith(NOT_FETCHED.removeprefix("IPython.core.error."))
    assert shown.text.count("\n") == 1
    assert notebook.cells[2].execution_count is None


def test_a_checkout_of_another_version_is_left_alone_and_not_used(machine):
    for name in ("tc3lib", "tc3lib-v0.0.1"):
        (machine.content / name / "tc3lib").mkdir(parents=True)
        (machine.content / name / "tc3lib" / "colab.py").write_text("raise SystemExit('the other one')")
    done = machine.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith(str(machine.content / FOLDER))
    assert sorted(path.name for path in machine.content.iterdir()) == sorted(["tc3lib", "tc3lib-v0.0.1", FOLDER])


def test_a_session_that_has_imported_another_version_is_asked_to_restart(machine):
    other = machine.content / "tc3lib"
    shutil.copytree(machine.origin / "tc3lib", other / "tc3lib")
    (other / "tc3lib" / "__init__.py").write_text("__version__ = '0.0.1'\n")
    line = machine.refused(before=f"sys.path.insert(0, {str(other)!r}); import tc3lib")
    assert line == (
        f"tc3lib.errors.Tc3Error: this session has imported tc3lib 0.0.1 from {other}, not from "
        f"{machine.content / FOLDER}: {colab.RESTART}."
    )
    assert list(machine.site.iterdir()) == []


def test_a_package_index_that_does_not_answer_is_told(machine):
    del machine.environment["PIP_NO_INDEX"], machine.environment["PIP_FIND_LINKS"]
    machine.environment |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull}
    line = machine.refused()
    assert line.startswith("tc3lib.errors.Tc3Error: the packages of ")
    assert line.endswith("(the package index does not answer: run this cell again in a minute)")


def test_a_version_that_is_not_in_the_index_is_told(machine):
    (machine.wheels / "tc3tiny-1.0-py3-none-any.whl").unlink()
    machine.environment |= {"FORCE_COLOR": "1", "PYTHON_COLORS": "0"}  # a kernel asks pip for colours
    line = machine.refused()
    assert "No matching distribution found for tc3tiny==1.0 (the package index lacks a version" in line


def test_a_disk_that_fills_while_installing_is_told(machine):
    fake = machine.site / "pip"
    fake.mkdir()
    (fake / "__init__.py").touch()
    (fake / "__main__.py").write_text(
        "import sys\nprint('WARNING: x', file=sys.stderr)\n"
        "sys.exit('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device')\n"
    )
    line = machine.refused()
    assert "[Errno 28] No space left on device (the disk is full: delete files" in line
    shutil.rmtree(fake)
    assert machine.run().returncode == 0


def test_a_package_that_was_in_use_before_asks_for_a_restart_and_no_other_does(machine):
    old = machine.folder / "old"
    wheel(machine.wheels, "0.9")
    with zipfile.ZipFile(machine.wheels / "tc3tiny-0.9-py3-none-any.whl") as archive:
        archive.extractall(old)
    machine.environment["PYTHONPATH"] += f"{os.pathsep}{old}"
    done = machine.run(before="import tc3tiny", after="import tc3tiny; print(tc3tiny.__version__)")
    assert "; tc3tiny 0.9 was in use before: 02 to 04 need a restart now, choose Runtime > Restart" in done.stdout
    done = machine.run(before="import tc3tiny")
    assert "restart" not in done.stdout


def test_what_hides_an_installed_package_is_told(monkeypatch, tmp_path):
    """As an older copy of it would, in a folder that Python looks at first."""
    (tmp_path / "requirements.txt").write_text("pip==0.0.1\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "", ""))
    with pytest.raises(Tc3Error, match=r"and Python still finds pip \d"):
        colab.install(tmp_path / "requirements.txt")


def test_in_use_compares_what_was_imported_with_what_is_there(monkeypatch):
    module = ModuleType("pip")
    module.__version__ = colab.installed("pip")
    monkeypatch.setitem(sys.modules, "pip", module)
    assert colab.in_use({"pip": "1", "no-such-package": "1"}) == []
    module.__version__ = "0.1"
    assert colab.in_use({"pip": "1"}) == ["pip 0.1"]


def test_the_pins_of_a_file_that_is_not_there_are_none(tmp_path):
    assert colab.pins(tmp_path / "x.txt") == {}
    assert colab.pins(colab.REQUIREMENTS)["trl"] == colab.installed("trl")
