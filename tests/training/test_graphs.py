"""CUDA graphs need a GPU: `benchmarks/several.py` compares them there. Here a stand-in computes what a replay would."""

import pytest
import torch
from test_equivalence import DISTURBED, ROWS, assert_same, layers, memory_for, small, train

from tc3lib import models
from tc3lib.training import batches, graphs
from tc3lib.training import packed_attention as attention

CPU = torch.device("cpu")


class StandIn(graphs._Recorded):
    """Computes the layers anew, from nothing but what was recorded and what `load` has put in its place."""

    made = 0

    def __init__(self, owner, part, longest):
        type(self).made += 1
        self.model, self.layers = owner.model, models.backbone(owner.model).forward
        self.inputs = {name: part[name].clone() for name in ("input_ids", "position_ids")}
        self.line = attention.Segments(part["lengths"], CPU, longest)

    def load(self, part):
        super().load(part)
        self.line.lengths = tuple(self.line.query_starts.diff().tolist())  # which attention on a CPU goes by

    def __call__(self, **settings):
        self.line.calls = 0
        with attention.segments(self.line), models.own_attention(self.model):
            return self.layers(**{**settings, **self.inputs})


@pytest.fixture(autouse=True)
def no_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(graphs, "TOKENS", 64)
    monkeypatch.setattr(graphs, "_Recorded", StandIn)
    monkeypatch.setattr(StandIn, "made", 0)


def with_graphs(trainer):
    trainer.graphs = graphs.Graphs(trainer.model, CPU)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(small(**DISTURBED), ROWS[:8], tmp_path_factory.mktemp("undisturbed"))


def test_replays_of_padded_lines_make_the_same_steps(tmp_path, undisturbed):
    """Four steps of the same eight rows, in another order each: recorded at the second, replayed from then on."""
    run = train(small(**DISTURBED), ROWS[:8], tmp_path, prepare=with_graphs)
    assert StandIn.made == len(run.trainer.graphs.recorded) == 1
    assert run.trainer.graphs.replays == 3
    [shape] = run.trainer.graphs.recorded
    assert shape[0] % 64 == 0
    assert_same(run, undisturbed)


def test_a_shape_that_cannot_be_recorded_ends_graphs_and_nothing_else(tmp_path, undisturbed, monkeypatch, capsys):
    def refuse(*_, **__):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "_Recorded", refuse)
    run = train(small(**DISTURBED), ROWS[:8], tmp_path, prepare=with_graphs)
    lines = [line for line in capsys.readouterr().out.splitlines() if "CUDA graphs" in line]
    reason = "operation not permitted when stream is capturing"
    assert lines == [f"without CUDA graphs from here on, which is slower: {reason}"]
    assert not run.trainer.graphs.on
    assert_same(run, undisturbed)


def test_where_memory_runs_out_graphs_go_first(tmp_path, undisturbed, capsys):
    def prepare(trainer):
        with_graphs(trainer)
        memory_for(100, "backward", passes_before=0, times=1)(trainer)

    run = train(small(**DISTURBED), ROWS[:8], tmp_path, prepare=prepare)
    assert len(run.trainer.refused) == 1
    printed = capsys.readouterr().out
    assert "which is slower: the memory does not hold them beside the rows" in printed
    assert "the same rows again" not in printed
    assert_same(run, undisturbed)


def test_weights_that_moved_are_recorded_anew(tmp_path):
    def prepare(trainer):
        with_graphs(trainer)
        step = trainer.training_step

        def move(*arguments):
            if trainer.state.global_step == 2:
                weight = layers(trainer.model)[0].self_attn.q_proj.lora_B["default"].weight
                weight.data = weight.data.clone()
            return step(*arguments)

        trainer.training_step = move

    train(small(**DISTURBED), ROWS[:8], tmp_path, prepare=prepare)
    assert StandIn.made == 2


def test_stand_ins_share_the_memory_and_go_away_again():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    before = list(model.parameters())
    with pytest.raises(KeyError), graphs._stand_ins(model, before[:2]) as others:
        assert [a is b for a, b in zip(model.parameters(), before, strict=True)] == [False, False, True, True]
        assert [other.data_ptr() for other in others] == [parameter.data_ptr() for parameter in before[:2]]
        assert all(other.requires_grad for other in others)
        raise KeyError
    assert all(a is b for a, b in zip(model.parameters(), before, strict=True))


def test_lines_of_one_shape_fill_the_same_memory():
    one, other = (3, 4, 5, 6), (3, 9, 2, 4)
    line, wanted = attention.Segments(one, CPU, 512), attention.Segments(other, CPU)
    assert (line.longest_query, line.longest_key) == (512, 512)
    places = {name: value.data_ptr() for name, value in vars(line).items() if torch.is_tensor(value)}
    line.load(wanted)
    for name, place in places.items():
        assert getattr(line, name).data_ptr() == place
        assert torch.equal(getattr(line, name), getattr(wanted, name)), name


@pytest.mark.parametrize(
    ("lengths", "shape"),
    [((40, 100, 115), (256, 40, 2, 2048)), ((40, 100, 116), (320, 40, 2, 2048)), ((40, 2009, 1), (2112, 40, 2, 4096))],
)
def test_what_lines_of_one_graph_have_in_common(lengths, shape):
    """There is always room for at least one token of padding, whose row each graph has."""
    ids = torch.zeros(1, sum(lengths), dtype=torch.int64)
    part = {"input_ids": ids, "labels": ids, "position_ids": ids, "lengths": lengths}
    assert graphs._shape(part) == shape
    padded = batches.pad(part, shape[0])
    assert padded["input_ids"].shape == (1, shape[0])
    assert padded["lengths"] == (*lengths, shape[0] - sum(lengths))
    missing = shape[0] - sum(lengths)
    assert padded["labels"][0, sum(lengths) :].tolist() == [-100] * missing
    assert padded["position_ids"][0, sum(lengths) :].tolist() == list(range(40, 40 + missing))
