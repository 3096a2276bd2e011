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
# | `trn.json` | `trn_output.json`, `trn_output.uid.jsonl`, `prepare_report.json`, `train.jsonl`, `eval.jsonl`, `questions.jsonl` | CPU |

# %% [markdown]
# In Colab this cell fetches the library and installs its pinned packages. Elsewhere it does nothing: they are
# installed as README says.

# %% tags=["setup"]
import runpy
import subprocess
import sys

if "google.colab" in sys.modules:
    home, clone = "tc3lib-v0.1.0", "git clone -q --depth 1 --branch v0.1.0 https://github.com/tc3lib/tc3lib"
    failed, said = subprocess.getstatusoutput(f"cd /content; test -f {home}/.git/index || (rm -rf {home}; {clone} {home}) || ! rm -rf {home}")  # fmt: skip
    failed and exec("from IPython.core.error import UsageError; raise UsageError('tc3lib was not fetched, mend this and run the cell again: ' + ' '.join(said.split()))")  # fmt: skip
    runpy.run_path(f"/content/{home}/tc3lib/runtime/packages.py", run_name="__main__")

# %% [markdown]
# The library reads, cleans and formats.

# %%
import os
from dataclasses import asdict

from tc3lib import catalogue, files, models, plotting, prompts, settings
from tc3lib.runtime import workspace as runtime

# Pick the preset, and change any of its settings by name. `TC3_PRESET=tiny` runs everything on a CPU in minutes.

# %% tags=["parameters"]
config = settings.get(os.environ.get("TC3_PRESET", "llama3_8b")).change(
    # max_steps=120, learning_rate=1e-4, clean=False,
)
work = runtime.setup(config, "01_prepare")

# %% [markdown]
# Read the whole catalogue once. A product needs a title and a content; every line is accounted for. Lines that cannot
# be read are passed over and listed in `quarantine.jsonl`. pandas shows the counts.

# %%
import pandas as pd

report = catalogue.prepare(config, work)
pd.Series({"read": report.read, "kept": report.kept, **report.dropped}, name="lines").to_frame()

# %% [markdown]
# What cleaning does to some texts (`clean=False` leaves them as they are): HTML is unescaped, white space is tidied, and
# edition notes that were glued to the end go.

# %%
plotting.table(catalogue.before_and_after(config, work), ["uid", "before", "after"])

# %% [markdown]
# Draw the rows that the planned steps will see. The hash of a description decides whether it may be trained on or is
# held out, so none is on both sides. Equal rows count once. The questions for the tests before and after training are
# drawn here too, once: the demo titles, held-out rows, and rows to train on.

# %%
sample = catalogue.select(config, work)
pd.Series(asdict(sample), name="rows").to_frame()

# %% [markdown]
# Some of the rows to train on, which are in random order.

# %%
rows = files.read_rows(work / "train.jsonl")
plotting.table(rows[:8], ["uid", "input_text", "response"])

# %% [markdown]
# Three of them as the model will meet them: the prompt, then what it learns to write.

# %%
print(prompts.preview(rows[8:11]))

# %% [markdown]
# How long their titles and contents are.

# %%
plotting.plot_lengths(rows)

# %% [markdown]
# How many tokens they have. What is longer than `max_seq_length` loses its end in training.

# %%
lengths = prompts.token_lengths(models.load_tokenizer(config.model), rows)
plotting.plot_tokens(lengths, config.model.max_seq_length)

# %% [markdown]
# In Colab this waits until Drive has every file, and then takes Drive away. Elsewhere it says where the results are.

# %%
runtime.finish(work)
