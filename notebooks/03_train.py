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
# | `train.jsonl`, `eval.jsonl` | `outputs/`, `loss.jsonl`, `loss.png`, `lora_model/`, `run.json` | GPU (`tiny`: CPU) |

# %% [markdown]
# In Colab this line installs the library and the packages that it was tested with. Outside Colab it does nothing: README
# says how to install them.

# %% tags=["setup"]
# !test -d /content && pip install -q --no-deps -r https://raw.githubusercontent.com/tc3lib/tc3lib/v0.1.0/requirements-colab.txt

# %% [markdown]
# The library loads, checks, trains and plots.

# %%
import os

from tc3lib import files, models, prompts, settings
from tc3lib.runtime import workspace as runtime
from tc3lib.training import check_rows as labels
from tc3lib.training import run as training

# Pick the preset, and change any of its settings by name. `TC3_PRESET=tiny` runs everything on a CPU in minutes.

# %% tags=["parameters"]
config = settings.get(os.environ.get("TC3_PRESET", "llama3_8b")).change(
    # max_steps=120, learning_rate=1e-4, clean=False,
)
work = runtime.setup(config, "03_train")

# %% [markdown]
# What will be trained on, and for how long.

# %%
train_rows = files.read_rows(work / "train.jsonl")
eval_rows = files.read_rows(work / "eval.jsonl")
tokenizer = models.load_tokenizer(config.model, before_model=True)
lengths = prompts.token_lengths(tokenizer, train_rows)
print(training.plan_run(lengths, config, work))

# %% [markdown]
# Three of the rows as the model will meet them. Only what is marked is learned: the response, and where it ends.

# %%
print(labels.check(tokenizer, train_rows, config.model.max_seq_length))
labels.show(tokenizer, train_rows[:3], config.model.max_seq_length)

# %% [markdown]
# Load the base model in 4 bit, and see how a step's rows fit the memory that it leaves. `plan="recipe"` takes
# micro-batches and checkpointing as they are set.

# %%
model, tokenizer = models.load_base_model(config.model)
fit = training.fit(model, lengths, config)
print(fit)

# %% [markdown]
# Put a new adapter on it: only the adapter's weights will change.

# %%
model = models.add_lora(model, fit.lora)
model.print_trainable_parameters()

# %% [markdown]
# Train. The stop button ends the step and saves it. Run the notebook again after any interruption: it continues from
# the newest checkpoint that is whole. Both losses should fall together; a held-out loss that turns upwards means that
# the model learns rows by heart.

# %%
trainer = training.build_trainer(model, tokenizer, train_rows, eval_rows, config, work, fit)
training.train(trainer, config, work)

# %% [markdown]
# Save the adapter, with the tokenizer beside it.

# %%
training.save_adapter(model, tokenizer, work / "lora_model")
sorted((work / "lora_model").iterdir())

# %% [markdown]
# In Colab this waits until Drive has every file, and then takes Drive away. Elsewhere it says where the results are.

# %%
runtime.finish(work)
