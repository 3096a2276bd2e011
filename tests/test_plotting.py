import sys
from types import SimpleNamespace

import pytest
from matplotlib import pyplot

from tc3lib import plotting
from tc3lib.prompts import format_record

NAN, INF = float("nan"), float("inf")
HISTORY = [
    {"step": 0, "eval_loss": 3.0, "eval_runtime": 0.5},
    {"step": 1, "loss": 2.0, "grad_norm": 0.3, "learning_rate": 3e-5, "epoch": 0.1},
    {"step": 2, "loss": 1.0, "grad_norm": 0.3, "learning_rate": 2e-5, "epoch": 0.2},
    {"step": 2, "eval_loss": 1.5, "eval_runtime": 0.5},
    {"step": 2, "train_runtime": 9.0, "train_loss": 1.5},
]


def test_both_curves_stand_on_the_same_step_axis(tmp_path):
    figure = plotting.plot_loss(HISTORY)
    raw, smooth, held_out = figure.axes[0].get_lines()
    assert raw.get_xydata().tolist() == [[1, 2.0], [2, 1.0]]
    assert smooth.get_xydata().tolist() == [[1, 2.0], [2, 1.5]]
    assert held_out.get_xydata().tolist() == [[0, 3.0], [2, 1.5]]
    assert figure.axes[0].get_ylim()[0] == 0
    figure.savefig(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert pyplot.get_fignums() == []  # no figure stays open


@pytest.mark.parametrize(
    "history",
    [
        [], [{"step": 0, "eval_loss": 3.0}], [{"step": 1, "loss": 2.0}], [{"step": 1, "loss": NAN}],
        [{"step": 0, "eval_loss": NAN}, {"step": 1, "loss": INF}], [{"step": 1, "loss": 0.0}],
        [{"step": 1, "loss": 1e300}],
    ],
)  # fmt: skip
def test_a_history_of_little_or_of_no_numbers_is_drawn(tmp_path, history):
    plotting.live_loss(tmp_path / "loss.png")(history, keep=True)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_loss_that_is_no_number_leaves_a_gap_in_the_curves_alone():
    losses = [2.0, NAN, INF, 1.0]
    figure = plotting.plot_loss([{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)])
    assert figure.axes[0].get_lines()[1].get_ydata().tolist() == [2.0, 2.0, 2.0, 1.5]


def test_lengths_are_counted_once_each():
    rows = [format_record("a" * n, "b" * 10 * n) for n in range(1, 21)]
    figure = plotting.plot_lengths(rows)
    bars = figure.axes[0].patches
    assert sum(bar.get_height() for bar in bars) == 2 * len(rows)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["title", "content"]
    contents = [bar for bar in bars[len(bars) // 2 :] if bar.get_height()]
    assert contents[-1].get_x() <= 200 <= contents[-1].get_x() + contents[-1].get_width() * 1.01


def test_tokens_show_percentiles_and_the_share_that_is_too_long():
    figure = plotting.plot_tokens(list(range(1, 101)), 90)
    title = figure.axes[0].get_title()
    assert title == ("5 %: 6, 50 %: 50, 95 %: 95, 99 %: 99, longest: 100 tokens; 10.00% are too long")
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 100
    assert plotting.plot_tokens([], 90).axes[0].get_title() == "no tokenizer at hand"


def test_each_metric_has_its_before_and_after():
    held_out, trained = {"before": 0.1, "after": 0.6}, {"before": 0.2, "after": None}
    metric = {"parts": {"eval": held_out, "train": trained}}
    axes = plotting.plot_comparison({"metrics": dict.fromkeys(("loss", "rougeL", "chrf", "eos_rate"), metric)}).axes
    assert [a.get_title() for a in axes] == ["loss", "ROUGE-L", "chrF", "ended by itself"]
    assert [[bar.get_height() for bar in a.patches] for a in axes] == [[0.1, 0.2, 0.6, 0.0]] * 4
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["held out", "trained on"]


def test_a_table_escapes_and_cuts_its_text():
    html = plotting.table(
        [{"title": "<script>x</script>" * 2, "text": "a" * 50, "uid": None}], ["title", "text", "uid"], 20
    )
    page = html.to_html()
    assert "&lt;script&gt;x&lt;/script&gt;&lt;…" in page
    assert "<script>" not in page
    assert "a" * 19 + "…" in page
    assert "None" not in page


def test_a_table_without_rows_is_a_sentence_where_there_is_one(capsys):
    assert plotting.table([], ["title"], none="Nothing odd.") is None
    assert capsys.readouterr().out == "Nothing odd.\n"
    assert "<td" not in plotting.table([], ["title"]).to_html()
    assert "<td" in plotting.table([{"title": "Mug"}], ["title"], none="Nothing odd.").to_html()


def test_the_live_curve_is_kept_as_a_picture_and_shown_only_in_a_notebook(tmp_path, monkeypatch):
    shown, updated, shell = [], [], []
    handle = SimpleNamespace(update=updated.append)
    display = SimpleNamespace(display=lambda figure, display_id: shown.append(figure) or handle)
    ipython = SimpleNamespace(get_ipython=lambda: shell or None, display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    draw = plotting.live_loss(tmp_path / "loss.png")
    draw(HISTORY, keep=False)
    assert not (tmp_path / "loss.png").exists()
    draw(HISTORY, keep=True)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (len(shown), len(updated)) == (0, 0)
    shell.append("a kernel")
    for _ in range(3):
        draw(HISTORY, keep=False)
    assert (len(shown), len(updated)) == (1, 2)
