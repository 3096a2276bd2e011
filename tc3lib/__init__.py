"""Fine-tune a Llama with LoRA so that it describes a product from its title.

A package for each notebook: `catalogue` (01), `evaluation` (02, 04), `training` (03); `checkpoints` and `runtime` below
them.
"""

__version__ = "0.1.0"
