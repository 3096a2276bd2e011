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
# # 4. Test after training
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tc3lib/tc3lib/blob/v0.1.0/notebooks/04_posttest.ipynb)
#
# Asks the fine-tuned model the same questions as before and compares.
#
# | Reads | Writes | Needs |
# | --- | --- | --- |
# | `lora_model/`, `run.json`, `train.jsonl`, `eval.jsonl`, `questions.jsonl`, `pretest.jsonl`, `pretest.made_by.json`, `settings.json` | `posttest.jsonl`, `posttest.made_by.json`, `report.json`, `report.html` | GPU (`smollm2`, `tiny`: CPU) |

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
    "04_posttest",
    # generation_batch_size=16,
)

# %% [markdown]
# Load the base model with the adapter on top, if it is the last run's and was trained on the rows of this folder.

# %%
from tc3lib import files, model_loading, plotting
from tc3lib.checkpoints import run_record

run_record.check_adapter(work)
model, tokenizer = model_loading.load_adapter(work / "lora_model", config.model)

# %% [markdown]
# The demo titles, first with the adapter switched off: this is the base model again.

# %%
from tc3lib.evaluation import asking, comparison, generation, questions, report

rows, titles = files.read_rows(work / "questions.jsonl"), config.generation.demo_titles
base = generation.stream(model, tokenizer, titles, config, rows, adapter=False)

# %% [markdown]
# The same with the adapter on.

# %%
tuned = generation.stream(model, tokenizer, titles, config, rows)

# %% [markdown]
# All questions again, the same as in the pretest.

# %%
answered = questions.answer(model, tokenizer, config, work, "posttest")
plotting.table(answered[:8], ["part", "uid", "title", "reference", "answer"])

# %% [markdown]
# Has it learned: does the gain carry over to held-out products, or are training descriptions memorised? Every difference
# has its 95 % interval; where that contains 0, no difference is shown.

# %%
found = comparison.compare(work, config)
report.write(found, work)
print(found["verdict"]["sentence"], found["verdict"]["learned"], sep="\n")
plotting.plot_comparison(found)

# %% [markdown]
# Some held-out answers side by side: the best, the worst, and others that changed most. `report.html` in the work folder
# has all of this on one page to pass on.

# %%
chosen = [*found["answers"]["best"], *found["answers"]["worst"], *found["answers"]["most_changed"]]
plotting.table(chosen, ["chosen", "uid", "title", "reference", "before", "after"])

# %% [markdown]
# Read the titles of the catalogue: the source of an answer is the row that the question is about.

# %%
from tc3lib.catalogue.lookup import Catalogue

products = Catalogue(work, config.prompting)
len(products)

# %% [markdown]
# Ask for yourself: a title, or a question that contains one. The answer names its source, and whether the model was
# trained on it.

# %%
asking.show(asking.ask(model, tokenizer, "Nice for Mice", config, products))

# %% [markdown]
# In Colab this waits until Drive has every file, and then unmounts it. Outside Colab it says where the results are.

# %%
runtime.finish(work)
