"""The four notebooks in JupyterLab, run from its menu and looked at: Colab's case whole, a machine's own begun.

Pictures of what was seen are left in `$TC3_PICTURES`, or in pytest's temporary folder. The runs are short: a few steps,
few questions, by settings of the settings cell. Takes some minutes.
"""

import os
import re
from pathlib import Path

import pytest
from lab import TOKEN, WAIT, jupyterlab, run_all
from planted import found_in
from playwright.sync_api import expect

from tc3lib.runtime.workspace import STAGES

SETTINGS = "max_steps=40, eval_steps=20, save_steps=20, question_rows=12, eval_rows=16, max_new_tokens=96,"
TALL = 9000
"""Pixels that hold the longest notebook."""
TABLES = {"01_prepare": 4, "02_pretest": 2, "03_train": 0, "04_posttest": 2}
PLOTS = {"01_prepare": 2, "02_pretest": 0, "03_train": 1, "04_posttest": 1}
BARS = {"01_prepare": 1, "02_pretest": 3, "03_train": 2, "04_posttest": 5}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    folder = Path(os.environ.get("TC3_PICTURES") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    with jupyterlab(tmp_path_factory.mktemp("colab"), SETTINGS, in_colab=True) as lab:
        yield lab


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    with jupyterlab(tmp_path_factory.mktemp("local"), SETTINGS, in_colab=False, HF_TOKEN=TOKEN) as lab:
        yield lab


def ran(page, lab, name, picture):
    """Run a notebook, keep a picture, and judge it by what is seen and by what was saved; return its texts by cell."""
    saved = run_all(page, lab, f"{name}.ipynb")
    page.wait_for_timeout(500)
    page.screenshot(path=picture)
    cells = [cell for cell in saved.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output.get("evalue", "") for output in outputs if output.output_type == "error"] == []
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"] == []
    notebook = page.locator(".jp-NotebookPanel:visible")
    assert notebook.locator('[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
    images = notebook.locator(".jp-OutputArea img").evaluate_all(
        "(images) => images.map((image) => [image.naturalWidth, image.naturalHeight, image.clientWidth])"
    )
    assert len(images) == PLOTS[name]
    assert all(width > 400 and height > 200 and seen > 300 for width, height, seen in images)
    tables = notebook.locator(".jp-OutputArea table")
    assert tables.count() == TABLES[name]
    assert all(table.locator("tr").count() > 2 for table in tables.all())
    bars = notebook.locator(".jp-OutputArea .widget-hbox")
    expect(bars).to_have_count(BARS[name], timeout=WAIT)
    assert all(re.search(r"\d", bar.inner_text()) for bar in bars.all())
    assert notebook.locator(".jp-OutputArea .progress-bar.bg-danger, .jp-OutputArea .progress-bar-danger").count() == 0
    seen = "\n".join(notebook.locator(".jp-OutputArea").all_inner_texts())
    for raw in ("HBox(", "FloatProgress(", "Loading widget", "Error displaying widget", "<Figure", "Styler at", "%|"):
        assert raw not in seen
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in cells]


def open_notebook(open_page, lab, name):
    page = open_page(f"{lab.address}lab/tree/{name}.ipynb?reset", width=1280, height=TALL)
    expect(page.locator(".jp-NotebookPanel .jp-CodeCell").first).to_be_visible(timeout=WAIT)
    return page


@pytest.mark.parametrize("name", sorted(TABLES))
def test_colabs_case_runs_to_the_end_and_looks_right(open_page, colab, pictures, name):
    page = open_notebook(open_page, colab, name)
    said = ran(page, colab, name, pictures / f"colab_{name}.png")
    assert said[0] == ""
    assert (colab.notebooks.parent / "content" / "site" / "tc3lib").is_dir()
    (table,) = (text for text in said if f"preset tiny, work folder {colab.work}" in text)
    assert "Drive        mounted" in table
    assert said[-1].startswith("Drive has everything: safe to disconnect.")


@pytest.mark.parametrize("name", ["01_prepare", "02_pretest"])
def test_a_machines_own_case_looks_right_too(open_page, local, pictures, name):
    page = open_notebook(open_page, local, name)
    said = ran(page, local, name, pictures / f"local_{name}.png")
    assert said[0] == ""
    assert said[-1] == f"the results are in {local.work}\n"


def test_no_notebook_result_or_log_holds_the_token(colab, local):
    """In Colab's secrets in the one case, in the environment in the other; the runs of above."""
    kept = colab.notebooks.parent / "content" / "cloud" / "MyDrive" / "tc3"  # unmounted
    assert all((kept / name).exists() for stage in TABLES for name in STAGES[stage].writes)
    folders = [colab.notebooks, colab.notebooks.parent / "server.log", kept]
    assert found_in(TOKEN, *folders) == []
    assert found_in(TOKEN, local.notebooks, local.notebooks.parent / "server.log", local.work) == []
