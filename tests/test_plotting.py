from tc3lib import plotting

HISTORY = [
    {"step": 0, "eval_loss": 3.0},
    {"step": 1, "loss": 2.0},
    {"step": 2, "loss": 1.0},
    {"step": 2, "eval_loss": 1.5},
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


def test_an_empty_history_is_an_empty_plot():
    assert plotting.plot_loss([]).axes[0].get_lines()[:] == []


def test_lengths_are_counted_once_each():
    rows = [{"input_text": "a" * n, "response": "b" * 10 * n} for n in range(1, 21)]
    bars = plotting.plot_lengths(rows).axes[0].patches
    assert sum(bar.get_height() for bar in bars) == 2 * len(rows)


def test_each_metric_has_its_before_and_after():
    report = {"baseline": {"rougeL": 0.1, "loss": 2.0}, "finetuned": {"rougeL": 0.6, "loss": 1.0}, "n": 3}
    axes = plotting.plot_comparison(report).axes
    assert [a.get_title() for a in axes] == ["rougeL", "loss"]
    assert [[bar.get_height() for bar in a.patches] for a in axes] == [[0.1, 0.6], [2.0, 1.0]]


def test_a_table_escapes_and_cuts_its_text():
    html = plotting.table(
        [{"title": "<script>x</script>" * 2, "text": "a" * 50, "uid": None}], ["title", "text", "uid"], 20
    )
    page = html.to_html()
    assert "&lt;script&gt;x&lt;/script&gt;&lt;…" in page
    assert "<script>" not in page
    assert "a" * 19 + "…" in page
    assert "None" not in page


def test_no_figure_stays_open():
    from matplotlib import pyplot

    plotting.plot_loss(HISTORY)
    assert pyplot.get_fignums() == []
