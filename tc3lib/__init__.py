"""Fine-tune a Llama with LoRA so that it describes a product from its title.

Each module is imported by name (`from tc3lib import data, presets`); none of them loads torch, transformers or
another heavy package before a function needs it.
"""

__version__ = "0.1.0"
