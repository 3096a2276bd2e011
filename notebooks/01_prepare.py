# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     gpuType: L4
#     provenance: []
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Prepare the rows
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tc3lib/tc3lib/blob/v0.1.0/notebooks/01_prepare.ipynb)
#
# Turns the catalogue into fine-tuning records and draws the rows of this run, with others held out to test it.
#
# | Reads | Writes | Needs |
# | --- | --- | --- |
# | `trn.json` | `trn_output.json`, `trn_output.uid.jsonl`, `prepare_report.json`, `train.jsonl`, `eval.jsonl`, `demo.jsonl` | CPU |

# %% [markdown]
# In Colab this cell fetches the library and installs its pinned packages. Elsewhere it does nothing: `make run` has
# done it.

# %% tags=["setup"]
import subprocess
import sys

if "google.colab" in sys.modules:
    repository = "https://github.com/tc3lib/tc3lib"
    fetch = f"cd /content; test -d tc3lib || git clone -q --depth 1 --branch v0.1.0 {repository}"
    subprocess.run(f"{fetch} && pip install -q --no-deps -r tc3lib/requirements-colab.txt", shell=True, check=True)
    sys.path.insert(0, "/content/tc3lib")

# %% [markdown]
# The library reads, cleans and formats; pandas shows tables.

# %%
import os
from dataclasses import asdict

import pandas as pd

from tc3lib import data, files, planning, plotting, presets, prompts, runtime

# %% [markdown]
# Pick the preset, and change any of its settings by name. `TC3_PRESET=tiny` runs everything on a CPU in minutes.

# %% tags=["parameters"]
config = presets.get(os.environ.get("TC3_PRESET", "llama3_8b")).change(
    # max_steps=120, learning_rate=1e-4, clean=False,
)
work = runtime.setup(config, "01_prepare")

# %% [markdown]
# Read the whole catalogue once. A product needs a title and a description; every line is accounted for.

# %%
report = data.prepare(runtime.catalogue(config, work), work / "trn_output.json", clean=config.data.clean)
pd.Series({"read": report.read, "kept": report.kept, **report.dropped}, name="lines").to_frame()

# %% [markdown]
# Draw the rows that the planned steps will see. The hash of a description decides whether it may be trained on or is
# held out, so none is on both sides.

# %%
needed, demo = planning.rows_needed(config.training), config.generation.demo_titles
sample = data.select(work / "trn_output.json", work, config.data, train_rows=needed, demo_titles=demo)
files.write_json(work / "prepare_report.json", {**asdict(report), "selected": asdict(sample)})
pd.Series(asdict(sample), name="rows").to_frame()

# %% [markdown]
# Some of the rows to train on.

# %%
rows = files.read_rows(work / "train.jsonl")
plotting.table(rows[:8], ["uid", "input_text", "response"])

# %% [markdown]
# One of them as the model will meet it: the prompt, then what it learns to write.

# %%
print(prompts.PROMPT.format(rows[0]["instruction"], rows[0]["input_text"]) + rows[0]["response"])

# %% [markdown]
# How long titles and answers are.

# %%
plotting.plot_lengths(rows)
