"""How much of the card's memory is left; torch.cuda is a stand-in."""

import pytest
import torch

from tc3lib.runtime import card

GIB = 2**30


def test_without_a_card_there_is_no_memory_to_plan_with(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert card.free_gib() is None
    assert card.free_gib(16) is None
    assert list(card.peak_memory()) == ["03_train: peak of the process"]


@pytest.mark.parametrize(("limit", "free"), [(None, 18), (16, 10), (40, 18)])
def test_what_torch_has_reserved_and_not_used_is_free_and_a_smaller_card_has_less(monkeypatch, limit, free):
    """A card of 24 GiB: 15 free, 5 reserved and 2 of them used, the rest of others."""
    for name, value in (
        ("is_available", True), ("mem_get_info", (15 * GIB, 24 * GIB)), ("memory_reserved", 5 * GIB),
        ("memory_allocated", 2 * GIB), ("max_memory_reserved", 7 * GIB),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert card.free_gib(limit) == free
    assert card.peak_memory() == {"03_train: peak of the card": 7.0}
