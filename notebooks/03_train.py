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
# # 3. Train the adapter
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tc3lib/tc3lib/blob/v0.1.0/notebooks/03_train.ipynb)
#
# Teaches the model with LoRA to describe a product from its title, and plots the losses on trained and held-out rows.
#
# | Reads | Writes | Needs |
# | --- | --- | --- |
# | `train.jsonl`, `eval.jsonl`, `settings.json` | `outputs/`, `loss.jsonl`, `loss.png`, `lora_model/`, `run.json` | GPU (`smollm2`, `tiny`: CPU) |

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
    "03_train",
    # max_steps=120, learning_rate=1e-4,
)

# %% [markdown]
# Read the rows, turn them into tokens, and see for how long the model will be trained. The steps of this notebook are in
# `tc3lib/training/run.py`, in this order.

# %%
from tc3lib import training

run = training.Run(config, work)
print(run)

# %% [markdown]
# Three of the rows as the model will meet them. Only what is marked is learned: the response, and where it ends.

# %%
run.show(3)

# %% [markdown]
# The recipe: how the base model is loaded, what LoRA adds to it, and how it is trained.

# %%
vars(config.model) | vars(config.lora) | vars(config.training)

# %% [markdown]
# Load the base model in 4 bit and put a new adapter on it: only the adapter's weights will change. A line says how a
# step's rows pass through the card; `plan="recipe"` takes the recipe's own micro-batches and checkpointing.

# %%
trainer = training.build_trainer(run)
trainer.model.print_trainable_parameters()

# %% [markdown]
# Train. The stop button ends the step and saves it. Run the notebook again after any interruption: it continues from
# the newest checkpoint that is whole. Both losses should fall together; a held-out loss that turns upwards means that
# the model learns rows by heart.

# %%
training.train(trainer, run)

# %% [markdown]
# Save the adapter, with the tokenizer beside it.

# %%
adapter = training.save_adapter(trainer, run)
sorted(adapter.iterdir())

# %% [markdown]
# In Colab this waits until Drive has every file, and then unmounts it. Outside Colab it says where the results are.

# %%
runtime.finish(work)
