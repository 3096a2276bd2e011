"""JupyterLab as a person has it, with the four notebooks in a folder, and how such a person runs one.

In Colab's case the kernels have the stand-in for `google.colab`, with its Drive, and the set-up cell installs the
library from local files; a folder stands for `/content`.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
from release import ROOT, URL, pack

WAIT = 120_000
"""Milliseconds, for a machine that is busy."""
STAGE = 900_000
"""Milliseconds, for a notebook."""
TOKEN = "hf_plantedInColabsSecrets012345"
"""What the stand-in's secrets hold as HF_TOKEN."""

COMMENT = "# max_steps=120, learning_rate=1e-4, clean=False,"
STARTUP = """
import sys
sys.path.append({helpers!r})
from pathlib import Path
import pytest
import fake_colab
_drive = fake_colab.install(pytest.MonkeyPatch(), Path({content!r}) / "drive", Path({content!r}) / "cloud")
sys.modules["google.colab"].userdata.secrets["HF_TOKEN"] = {token!r}
sys.path.remove({helpers!r})
"""
QUIET = """{
  "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false},
  "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none", "scrollPastEnd": false}
}"""

PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')].map((node) => node.textContent.trim())"


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address, the folder it shows, where a run's files come to lie."""

    address: str
    notebooks: Path
    work: Path


def change(source: str, settings: str) -> str:
    """Return the text of notebook 01 with these settings named in its settings cell, as a person does."""
    assert source.count(COMMENT) == 1
    return source.replace(COMMENT, settings)


def publish(folder: Path, content: Path) -> Path:
    """Return a requirement file for the set-up cell: the library alone, whose Drive is below `content`.

    The packages are those that are installed here: most of Colab's are for a GPU.
    """
    requirements = folder / "requirements-colab.txt"
    requirements.write_text(f"tc3lib @ {pack(folder, drive=content / 'drive').as_uri()}\n")
    return requirements


@contextmanager
def jupyterlab(folder: Path, settings: str, *, in_colab: bool, **environment: str):
    """Serve JupyterLab on this machine alone, with nothing of the user's own settings.

    Args:
        folder: An empty one.
        settings: Written into the settings cell of notebook 01.
        in_colab: Whether the kernels take this for Colab.
        environment: Variables of the kernels.
    """
    content, notebooks, home = folder / "content", folder / "notebooks", folder / "home"
    for path in (content, notebooks, home / "ipython" / "profile_default" / "startup", home / "lab"):
        path.mkdir(parents=True)
    texts = {path.name: path.read_text() for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    texts["01_prepare.ipynb"] = change(texts["01_prepare.ipynb"], settings)
    if in_colab:
        requirements = publish(folder, content)
        start = STARTUP.format(helpers=str(ROOT / "tests" / "helpers"), content=str(content), token=TOKEN)
        (home / "ipython" / "profile_default" / "startup" / "0.py").write_text(start)
        for name, text in texts.items():
            texts[name] = text.replace(URL, str(requirements)).replace("/content &&", f"{content} &&")
            assert f"test -d {content} && pip install -q --no-deps -r {requirements}" in texts[name]
        site = content / "site"
        site.mkdir()  # Python does not look again for a folder that was not there when it started
        environment |= {
            "PIP_TARGET": str(site), "PIP_UPGRADE": "1", "PIP_NO_BUILD_ISOLATION": "0",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
    for name, text in texts.items():
        (notebooks / name).write_text(text)
    (home / "overrides.json").write_text(QUIET)
    work = content / "drive" / "MyDrive" / "tc3" if in_colab else folder / "work"
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("TC3_", "JUPYTER", "COLAB"))}
    variables |= {
        "TC3_PRESET": "tiny", "HF_HUB_OFFLINE": "1", "JUPYTER_PREFER_ENV_PATH": "1", "PIP_NO_INDEX": "1",
        **{f"JUPYTER_{name}": str(home / name.lower()) for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")},
        "IPYTHONDIR": str(home / "ipython"), **({} if in_colab else {"TC3_HOME": str(work)}), **environment,
    }  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={notebooks}",
        "--LabApp.extension_manager=readonly", f"--LabApp.user_settings_dir={home / 'lab'}",
        f"--LabApp.workspaces_dir={home / 'workspaces'}", f"--LabServerApp.app_settings_dir={home}",
        f"--LabApp.app_settings_dir={home}",
    ]  # fmt: skip
    address = f"http://127.0.0.1:{port}/"
    with (
        open(folder / "server.log", "w") as log,
        subprocess.Popen(command, cwd=notebooks, env=variables, stdout=log, stderr=subprocess.STDOUT) as server,
    ):
        try:
            wait_for(address, server, folder / "server.log")
            yield Lab(address, notebooks, work)
        finally:
            server.terminate()


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(f"{address}api/status", timeout=5).close()
            return
        except OSError:
            assert server.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.2)


def settle(page, lab: Lab) -> None:
    """Wait until the page has had one idle kernel for three seconds: at first JupyterLab may start two and drop one."""
    seen, end = [], time.monotonic() + WAIT / 1000
    while len(seen) < 4 or len(set(seen[-4:])) > 1 or seen[-1] is None:
        assert time.monotonic() < end, f"no kernel came to rest: {seen[-4:]}"
        with urllib.request.urlopen(f"{lab.address}api/kernels", timeout=30) as answer:
            kernels = [kernel for kernel in json.load(answer) if kernel["connections"]]
        idle = len(kernels) == 1 and kernels[0]["execution_state"] == "idle"
        seen.append(kernels[0]["id"] if idle else None)
        page.wait_for_timeout(1000)


def run_all(page, lab: Lab, name: str) -> nbformat.NotebookNode:
    """Choose Run > Run All Cells on an open notebook, wait for the end, save, and return what was saved."""
    from playwright.sync_api import expect

    notebook = page.locator(".jp-NotebookPanel:visible")
    status = notebook.locator(".jp-Notebook-ExecutionIndicator")
    expect(status).to_have_attribute("data-status", "idle", timeout=WAIT)
    settle(page, lab)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(f"() => {PROMPTS}.some((text) => /[*\\d]/.test(text))", timeout=WAIT)
    cells = notebook.locator(".jp-CodeCell")
    prompts = notebook.locator(".jp-CodeCell .jp-InputArea-prompt")
    expect(prompts.nth(cells.count() - 1)).to_have_text(re.compile(r"\[\d+\]:|\[ \]:"), timeout=STAGE)
    page.wait_for_function(
        f"() => {PROMPTS}.every((text) => /^\\[\\d*\\s*\\]:$/.test(text))",
        timeout=STAGE,
    )
    expect(status).to_have_attribute("data-status", "idle", timeout=WAIT)
    before = (lab.notebooks / name).stat().st_mtime_ns
    page.keyboard.press("Control+s")
    end = time.monotonic() + 60
    while (lab.notebooks / name).stat().st_mtime_ns == before:
        assert time.monotonic() < end, f"{name} was not saved"
        page.wait_for_timeout(100)
    return nbformat.read(lab.notebooks / name, as_version=4)
