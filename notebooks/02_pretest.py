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
# | `questions.jsonl`, `train.jsonl`, `settings.json` | `pretest.jsonl`, `pretest.made_by.json` | GPU (`smollm2`, `tiny`: CPU) |

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
# The settings are those that `settings.json` in the work folder keeps. Change any by its name: it is kept too.

# %%
config, work = runtime.setup(
    "02_pretest",
    # generation_batch_size=16,
)

# %% [markdown]
# Load the base model, with its own tokenizer.

# %%
from tc3lib import files, model_loading, plotting
from tc3lib.evaluation import generation, metrics, questions

model, tokenizer = model_loading.load_base_model(config.model)

# %% [markdown]
# The demo titles, written as you watch, each with the `uid` of its row in the catalogue.

# %%
rows, titles = files.read_rows(work / "questions.jsonl"), config.generation.demo_titles
answers = generation.stream(model, tokenizer, titles, config, rows)

# %% [markdown]
# All questions in batches, with the loss of the descriptions that the products really have. After an interruption, run
# it again: it continues.

# %%
answered = questions.answer(model, tokenizer, config, work, "pretest")
plotting.table(answered[:8], ["part", "uid", "title", "reference", "answer"])

# %% [markdown]
# The base model's scores, on titles that it will not be trained on and on some that it will be.

# %%
import pandas as pd

pd.DataFrame(questions.scores(answered, work, config.prompting)).rename(metrics.labels())

# %% [markdown]
# In Colab this waits until Drive has every file, and then unmounts it. Outside Colab it says where the results are.

# %%
runtime.finish(work)
