"""What several test modules share: the embedded model and a small, fast run."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import unsloth  # noqa: F401  (before any test imports transformers, trl or peft, which it patches)

from tc3lib import settings
from tc3lib.prompts import format_record


def pytest_collection_modifyitems(items):
    """Begin with the whole run, the longest, so that it is made beside the others in `make test`."""
    items.sort(key=lambda item: item.path.parent.name != "whole")


@pytest.fixture(scope="session")
def config():
    """The tiny preset, cut down to seconds."""
    return settings.get("tiny").change(
        max_steps=4, per_device_train_batch_size=4, gradient_accumulation_steps=2, save_steps=2, eval_steps=2,
        eval_rows=6, max_new_tokens=24, max_seq_length=512,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer(config):
    from tc3lib import model_loading

    return model_loading.load_base_model(config.model)[1]


@pytest.fixture
def base(config):
    """A freshly loaded base model and its tokenizer."""
    from tc3lib import model_loading

    return model_loading.load_base_model(config.model)


@pytest.fixture(scope="session")
def rows():
    """Rows as `select` writes them."""
    return [
        {"uid": f"B{n:09d}", "part": "train", **format_record(f"Steel Mug No. {n}", f"A mug of steel, {n} cm high.")}
        for n in range(1, 33)
    ]
