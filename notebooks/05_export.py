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
# # 5. Export (optional)
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tc3lib/tc3lib/blob/v0.1.0/notebooks/05_export.ipynb)
#
# Writes the fine-tuned model in the forms that other programs take, and asks the weights held-out questions.
#
# | Reads | Writes | Needs |
# | --- | --- | --- |
# | `lora_model/`, `run.json`, `train.jsonl`, `eval.jsonl`, `questions.jsonl`, `settings.json` | `export/`, `export.json` | CPU |

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
# The settings are those that `settings.json` in the work folder keeps. Choose the formats; "gguf" needs
# `pip install llama-cpp-python==0.3.36 sentencepiece` first.

# %%
config, work = runtime.setup(
    "05_export",
    # export_to=("merged", "gguf", "ollama", "hub"), hub_repo="me/tc3-describe",
)

# %% [markdown]
# Merge the adapter into the base model in 16 bit and make other formats from that. Weights and GGUF files are opened
# in a process of their own; one whose answers differ more than its precision explains is set aside.

# %%
from tc3lib import export, plotting

record = export.export(work, config)

# %% [markdown]
# Share of answers that begin like the adapter's, loss per token, share of answers that the model ended itself.

# %%
plotting.table(export.rows(record), ["format", "program", "equal", "loss", "ended", "verdict"])

# %% [markdown]
# Upload what was proved to the Hugging Face Hub, private unless `hub_private=False`, if "hub" is among the formats.

# %%
export.upload(work, config)

# %% [markdown]
# In Colab this waits until Drive has every file, and then unmounts it. Outside Colab it says where the results are.

# %%
runtime.finish(work)
