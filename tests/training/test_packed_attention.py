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


@pytest.mark.parametrize("lengths", [(0, 5, 9), (6, 5, 1, 9)])
@pytest.mark.parametrize("window", [None, 1, 4, 7, 100])
@pytest.mark.parametrize("scaling", [None, 0.1])
def test_a_window_and_a_scale_count_in_each_row_by_itself(lengths, window, scaling):
    """Against plain attention over a row of the prefix and its rest, as if the others were not there."""
    prefix, *rests = lengths
    query, key, value = torch.randn(1, 4, sum(lengths), 8), *torch.randn(2, 1, 2, sum(lengths), 8)
    line = packed_attention.Segments(lengths, torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_attention, "_segments", line)
        found, _ = packed_attention.attend_in_transformers(
            None, query, key, value, None, scaling=scaling, sliding_window=window
        )
    assert line.calls == 1
    start = prefix
    for rest in rests:
        where = [*range(prefix), *range(start, start + rest)]
        at = torch.arange(len(where))
        seen = (at[:, None] >= at) & (at[:, None] - at < (window or 1000))
        q, k, v = query[:, :, where], *(x[:, :, where].repeat_interleave(2, 1) for x in (key, value))
        alone = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, scale=scaling)
        assert torch.allclose(found[0, where], alone[0].transpose(0, 1), atol=1e-6)
        start += rest


def test_attention_that_asks_for_a_soft_cap_is_not_counted(monkeypatch):
    query, key = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 3, 8)
    line = packed_attention.Segments((1, 2), torch.device("cpu"))
    monkeypatch.setattr(packed_attention, "_segments", line)
    packed_attention.attend_in_transformers(None, query, key, key, None, softcap=30.0)
    assert line.calls == 0
