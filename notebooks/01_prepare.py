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
# `runtime` looks at the machine before anything heavy is imported.

# %%
import os

from tc3lib import runtime, settings

# %% [markdown]
# Choose the preset, and change any of its settings by name, the same in all four notebooks. `TC3_PRESET=tiny` runs
# everything on a CPU in minutes.

# %% tags=["parameters"]
config = settings.get(os.environ.get("TC3_PRESET", "llama3_8b")).change(
    # max_steps=120, learning_rate=1e-4, clean=False,
)
work = runtime.setup(config, "01_prepare")

# %% [markdown]
# Read the whole catalogue once. A product needs a title and a content; every line is accounted for. Lines that cannot
# be read are skipped and listed in `quarantine.jsonl`.

# %%
import pandas as pd

from tc3lib import catalogue, files, plotting, prompts

report = catalogue.prepare(config, work)
pd.Series({"read": report.read, "kept": report.kept, **report.dropped}, name="lines").to_frame()

# %% [markdown]
# What is odd in the rows that are kept: HTML, which becomes text; text in a wrong encoding (`fix_encoding=True` repairs
# it) and placeholders (`drop_placeholders=True` drops them), which are trained on as they are.

# %%
plotting.table(report.examples, ["what", "rows", "uid", "text", "kept_as"])

# %% [markdown]
# What cleaning does to some texts (`clean=False` leaves them as they are): HTML becomes text, white space is tidied, and
# edition notes glued to the end are removed.

# %%
plotting.table(catalogue.before_and_after(config, work), ["uid", "before", "after"])

# %% [markdown]
# Draw the rows that the planned steps will see. The hash of a description decides whether it may be trained on or is
# held out, so none is on both sides. Equal rows count once. The questions for the tests before and after training are
# drawn here too: the demo titles, held-out rows, and rows to train on.

# %%
selected = catalogue.select(config, work)
pd.Series(vars(selected), name="rows").to_frame()

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
lengths = prompts.token_lengths(config.model.model_name, rows)
plotting.plot_tokens(lengths, config.model.max_seq_length)

# %% [markdown]
# In Colab this waits until Drive has every file, and then unmounts it. Outside Colab it says where the results are.

# %%
runtime.finish(work)
