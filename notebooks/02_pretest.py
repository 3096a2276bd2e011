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
# # 2. Test before training
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tc3lib/tc3lib/blob/v0.1.0/notebooks/02_pretest.ipynb)
#
# Asks the base model the questions that notebook 01 drew: the demo titles, products that it will never be trained on,
# and products that it will be.
#
# | Reads | Writes | Needs |
# | --- | --- | --- |
# | `questions.jsonl`, `train.jsonl` | `pretest.jsonl` | GPU (`tiny`: CPU) |

# %% [markdown]
# In Colab this line installs the library and the packages that it was tested with. Outside Colab it does nothing: README
# says how to install them.

# %% tags=["setup"]
# !test -d /content && pip install -q --no-deps -r https://raw.githubusercontent.com/tc3lib/tc3lib/v0.1.0/requirements-colab.txt

# %% [markdown]
# The library loads the model and asks it.

# %%
import os

from tc3lib import files, models, plotting, settings
from tc3lib.evaluation import generation, metrics
from tc3lib.evaluation import questions as evaluation
from tc3lib.runtime import workspace as runtime

# %% [markdown]
# Pick the preset, and change any of its settings by name. `TC3_PRESET=tiny` runs everything on a CPU in minutes.

# %% tags=["parameters"]
config = settings.get(os.environ.get("TC3_PRESET", "llama3_8b")).change(
    # max_steps=120, learning_rate=1e-4, clean=False,
)
work = runtime.setup(config, "02_pretest")

# %% [markdown]
# Load the base model in 4 bit, with its own tokenizer.

# %%
model, tokenizer = models.load_base_model(config.model)

# %% [markdown]
# The demo titles, written as you watch, each with the `uid` of its row in the catalogue.

# %%
questions = files.read_rows(work / "questions.jsonl")
answers = generation.stream(model, tokenizer, config.generation.demo_titles, config.generation, questions)

# %% [markdown]
# All questions in batches, with the loss of the descriptions that the products really have. Interrupted, it goes on
# where it was.

# %%
rows = evaluation.answer(model, tokenizer, config, work, "pretest")
plotting.table(rows[:8], ["part", "uid", "title", "reference", "answer"])

# %% [markdown]
# The base model's scores, on titles that it will not be trained on and on some that it will be, as a table of pandas.

# %%
import pandas as pd

pd.DataFrame(evaluation.scores(rows, work)).rename(metrics.labels())

# %% [markdown]
# In Colab this waits until Drive has every file, and then takes Drive away. Elsewhere it says where the results are.

# %%
runtime.finish(work)
