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
# | `lora_model/`, `run.json`, `train.jsonl`, `eval.jsonl`, `demo.jsonl`, `pretest.jsonl` | `posttest.jsonl`, `report.json` | GPU (`tiny`: CPU) |

# %% [markdown]
# In Colab this cell fetches the library and installs its pinned packages. Elsewhere it does nothing: `make run` has
# done it.

# %% tags=["setup"]
import runpy
import subprocess
import sys

if "google.colab" in sys.modules:
    clone = "git clone -q --depth 1 --branch v0.1.0 https://github.com/tc3lib/tc3lib"
    failed, said = subprocess.getstatusoutput(f"cd /content; test -d tc3lib || {clone} || ! rm -rf tc3lib")
    failed and sys.exit(f"tc3lib was not fetched, mend this and run the cell again: {' '.join(said.split())}")
    runpy.run_path("/content/tc3lib/tc3lib/colab.py", run_name="__main__")

# %% [markdown]
# The library loads the adapter, asks and compares.

# %%
import os

from tc3lib import checkpoints, evaluation, files, generation, models, plotting, presets, runtime

# %% [markdown]
# Pick the preset, and change any of its settings by name. `TC3_PRESET=tiny` runs everything on a CPU in minutes.

# %% tags=["parameters"]
config = presets.get(os.environ.get("TC3_PRESET", "llama3_8b")).change(
    # max_steps=120, learning_rate=1e-4, clean=False,
)
work = runtime.setup(config, "04_posttest")

# %% [markdown]
# Load the base model with the adapter on top, if it was trained on the rows that lie here.

# %%
checkpoints.check_adapter(work)
model, tokenizer = models.load_adapter(work / "lora_model", config.model)

# %% [markdown]
# The demo titles again, each with the `uid` of its row in the catalogue.

# %%
demo = files.read_rows(work / "demo.jsonl")
answers = generation.stream(model, tokenizer, config.generation.demo_titles, config.generation, demo)

# %% [markdown]
# The held-out titles again, the same as in the pretest.

# %%
after = evaluation.answer(model, tokenizer, demo + files.read_rows(work / "eval.jsonl"), config)
files.write_rows(work / "posttest.jsonl", after)

# %% [markdown]
# Has it learned? The scores before and after, on titles that it was not trained on.

# %%
before = files.read_rows(work / "pretest.jsonl")
report = evaluation.compare(before, after)
files.write_json(work / "report.json", report)
plotting.plot_comparison(report)

# %% [markdown]
# The answers side by side.

# %%
pairs = evaluation.pairs(before, after)
plotting.table(pairs[:10], ["part", "uid", "title", "reference", "before", "after"])

# %% [markdown]
# In Colab this waits until Drive has every file, and then takes Drive away. Elsewhere it says where the results are.

# %%
runtime.finish(work)
