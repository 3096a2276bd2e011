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
# | `trn.json` | `trn_output.json`, `trn_output.uid.jsonl`, `prepare_report.json`, `train.jsonl`, `eval.jsonl`, `questions.jsonl`, `settings.json` | CPU |

# %% [markdown]
# In Colab this line installs the library and the packages that it was tested with. Outside Colab it does nothing: README
# says how to install them.

# %% tags=["setup"]
# !test -d /content && pip install -q --no-deps -r https://raw.githubusercontent.com/tc3lib/tc3lib/v0.1.0/requirements-colab.txt

# %% [markdown]
# `runtime` looks at the machine before anything heavy is imported.

# %%
from tc3lib import runtime

# %% [markdown]
# Choose the preset: `llama3_8b` is the recipe, for an L4 or A100; `llama3_2_1b` and `qwen3_4b` fit a free T4; `smollm2`
# and `tiny` run on a CPU.

# %% tags=["parameters"]
preset = "llama3_8b"  # @param ["llama3_8b", "llama3_2_1b", "qwen3_4b", "smollm2", "tiny"]

# %% [markdown]
# Change any setting by its name, here or in a later notebook: the work folder keeps it in `settings.json`, and every
# notebook starts from there.

# %%
config, work = runtime.setup(
    "01_prepare",
    preset,
    # max_steps=120, learning_rate=1e-4, clean=False,
)

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
none = "None was found (with clean=False none is looked for)."
plotting.table(report.examples, ["what", "rows", "uid", "text", "kept_as"], none=none)

# %% [markdown]
# What cleaning does to some texts (`clean=False` leaves them as they are): HTML becomes text, white space is tidied, and
# edition notes glued to the end are removed.

# %%
changed = catalogue.before_and_after(config, work)
plotting.table(changed, ["uid", "before", "after"], none="It changes none of the first 20,000 rows.")

# %% [markdown]
# Draw the rows that the planned steps will see. The hash of a description decides whether it may be trained on or is
# held out, so none is on both sides. Equal rows count once. Held-out rows that are nearly the same as a row to train on
# (near twins: another colour or size) are replaced. The questions for the tests before and after training are drawn
# here too: the demo titles, held-out rows, and rows to train on.

# %%
selected = catalogue.select(config, work)
pd.Series(vars(selected), name="rows").to_frame()

# %% [markdown]
# Some of the rows to train on. They are in random order: where there are more, the first 10,000 stand for all.

# %%
rows = files.read_rows(work / "train.jsonl", 10_000)
plotting.table(rows[:8], ["uid", "input_text", "response"])

# %% [markdown]
# Three of them as the model will meet them: the prompt, then what it learns to write.

# %%
print(prompts.preview(config.model.model_name, rows[8:11], config.prompting))

# %% [markdown]
# How long their titles and contents are.

# %%
plotting.plot_lengths(rows, config.prompting)

# %% [markdown]
# How many tokens they have. What is longer than `max_seq_length` loses its end in training.

# %%
lengths = prompts.token_lengths(config.model.model_name, rows, config.prompting)
plotting.plot_tokens(lengths, config.model.max_seq_length)

# %% [markdown]
# In Colab this waits until Drive has every file, and then unmounts it. Outside Colab it says where the results are.

# %%
runtime.finish(work)
