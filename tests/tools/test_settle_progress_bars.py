"""The bars of an executed notebook become text; everything else stays."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
CELL = """
from tqdm.notebook import tqdm
print("before")
for _ in tqdm(range(4), desc="rows & titles"):
    pass
for _ in tqdm(range(4), leave=False):
    pass
bar = tqdm(total=4, mininterval=0)
bar.update()
{"left": 1}
"""


def test_a_bar_becomes_the_text_it_ended_with_and_a_closed_one_goes(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("x"), nbformat.v4.new_code_cell(CELL)])
    NotebookClient(notebook, kernel_name="python3").execute()
    assert "widgets" in notebook.metadata
    path = tmp_path / "a.ipynb"
    nbformat.write(notebook, path)
    subprocess.run([sys.executable, ROOT / "tools" / "settle_progress_bars.py", path], check=True)
    settled = nbformat.read(path, as_version=4)
    nbformat.validate(settled)
    assert "widgets" not in settled.metadata
    assert [cell.source for cell in settled.cells] == ["x", CELL]
    said, rows, left, result = settled.cells[1].outputs
    assert said.text == "before\n"
    assert rows.data["text/plain"].startswith("rows & titles: 100%|██████████| 4/4 [")
    assert left.data["text/plain"].startswith(" 25%|██        | 1/4 [")
    assert result.data == {"text/plain": "{'left': 1}"}
    assert "widget" not in json.dumps(settled)
