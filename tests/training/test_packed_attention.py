"""Attention over packed rows: a model that does not use it is found out."""

import pytest
import torch

from tc3lib.errors import Tc3Error
from tc3lib.training import packed_attention
from tc3lib.training.packed_attention import shared_prefix


def test_a_model_whose_attention_does_not_know_the_lines_segments_is_refused(base):
    model, tokenizer = base
    ids = torch.tensor([[tokenizer.bos_token_id, 5, 6, 7, 8, 9]])
    positions = torch.tensor([[0, 1, 2, 3, 2, 3]])
    with shared_prefix(model, (2, 2, 2), model.device):
        together = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    first, second = (model(input_ids=ids[:, kept], use_cache=False).logits[0] for kept in ([0, 1, 2, 3], [0, 1, 4, 5]))
    assert torch.allclose(together[2:4], first[2:], rtol=0.05, atol=0.1)
    assert torch.allclose(together[4:], second[2:], rtol=0.05, atol=0.1)
    before = model.config._attn_implementation
    with (
        pytest.raises(Tc3Error, match=r"does not know the attention of 'llama' models .* set plan='recipe'"),
        shared_prefix(model, (2, 2, 2), model.device),
    ):
        model.config._attn_implementation = before  # as a model that does not look there
        model(input_ids=ids, position_ids=positions, use_cache=False)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize(
    ("settings", "counted"),
    [({}, 1), ({"scaling": 8**-0.5}, 1), ({"scaling": 1.0}, 0), ({"sliding_window": 2}, 0), ({"softcap": 30.0}, 0)],
)
def test_attention_that_asks_for_more_than_llamas_is_not_counted(monkeypatch, settings, counted):
    query, key = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 3, 8)
    line = packed_attention.Segments((1, 2), torch.device("cpu"))
    monkeypatch.setattr(packed_attention, "_segments", line)
    packed_attention.attend_in_transformers(None, query, key, key, None, **settings)
    assert line.calls == counted
