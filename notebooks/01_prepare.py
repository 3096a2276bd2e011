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
# In Colab this line installs the library and the packages that it was tested with. Outside Colab it does nothing: README
# says how to install them.

# %% tags=["setup"]
# !test -d /content && pip install -q --no-deps -r https://raw.githubusercontent.com/tc3lib/tc3lib/v0.1.0/requirements-colab.txt

# %% [markdown]
# The library reads, cleans and formats.

# %%
import os
from dataclasses import asdict

from tc3lib import files, models, plotting, prompts, settings
from tc3lib.catalogue import prepare as data
from tc3lib.catalogue import sampling
from tc3lib.runtime import workspace as runtime

# %% [markdown]
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

source, rules = runtime.catalogue(config, work), config.data
columns, options = data.columns(rules), {"clean": rules.clean, "max_damaged": rules.max_damaged}
report = data.prepare(source, work / "trn_output.json", columns=columns, **options)
print(report.remark)
pd.Series({"read": report.read, "kept": report.kept, **report.dropped}, name="lines").to_frame()

# %% [markdown]
# What cleaning does to some texts (`clean=False` leaves them as they are): HTML is unescaped, white space is tidied, and
# edition notes that were glued to the end go.

# %%
plotting.table(data.before_and_after(source, columns=columns), ["uid", "before", "after"])

# %% [markdown]
# Draw the rows that the planned steps will see. The hash of a description decides whether it may be trained on or is
# held out, so none is on both sides. Equal rows count once. The questions for the tests before and after training are
# drawn here too, once: the demo titles, held-out rows, and rows to train on.

# %%
needed, demo = settings.rows_needed(config.training), config.generation.demo_titles
sample = sampling.select(work / "trn_output.json", work, rules, train_rows=needed, demo_titles=demo)
files.write_json(work / "prepare_report.json", {**asdict(report), "selected": asdict(sample)})
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
