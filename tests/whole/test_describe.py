import json

import openpyxl
import pytest

from tc3lib import describe, model_loading
from tc3lib.errors import Tc3Error
from tc3lib.evaluation import generation
from tc3lib.files import alone


def test_titles_are_read_without_contents_and_tidied(config, tmp_path, capsys):
    lines = ['{"title": " A &amp; B ", "uid": "1"}', '{"title": "C", "content": "c"}', '{"title": ""}', "", "{}"]
    path = tmp_path / "new.jsonl"
    path.write_text("\n".join(lines) + "\n")
    assert describe.read_titles(path, config.data) == [{"uid": "1", "title": "A & B"}, {"uid": None, "title": "C"}]
    assert f"2 titles in {path}; 3 lines have none" in capsys.readouterr().out
    path.write_text('{"name": "D"}\n')
    assert describe.read_titles(path, config.change(title_column="name").data) == [{"uid": None, "title": "D"}]
    with pytest.raises(Tc3Error, match=r"no title in .*expected 'title', or another name, --set title_column=NAME"):
        describe.read_titles(path, config.data)


def test_damaged_lines_are_reported_and_too_many_refused(config, tmp_path, capsys):
    path = tmp_path / "new.csv"
    path.write_text("title\nMug\nBowl, blue\nPlate\n")
    reason = r"line 3: 2 cells, but the header has 1: quote a cell that holds ','"
    with pytest.raises(Tc3Error, match=rf"1 of 3 lines of .* are damaged, more than max_damaged=0.01 .*{reason}"):
        describe.read_titles(path, config.data)
    titles = describe.read_titles(path, config.change(max_damaged=0.5).data)
    assert [row["title"] for row in titles] == ["Mug", "Plate"]
    out = capsys.readouterr().out
    assert "2 titles in" in out
    assert "0 lines have none\n1 damaged lines are skipped: line 3: 2 cells" in out
    path.write_text('{"title": "Mug"}\n{"title": "Bowl}\n')
    with pytest.raises(Tc3Error, match=r"1 of 2 lines of .* are damaged, .*line 2: "):
        describe.read_titles(path, config.data)


def test_where_there_are_contents_they_tell_sheet_and_delimiter_as_in_notebook_01(config, tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["title", "content"])
    book.active.append(["Mug", "A mug."])
    orders = book.create_sheet("orders")
    orders.append(["title", "quantity"])
    orders.append(["Order", 7])
    book.save(tmp_path / "new.xlsx")
    assert describe.read_titles(tmp_path / "new.xlsx", config.data) == [{"uid": None, "title": "Mug"}]
    (tmp_path / "new.csv").write_text("a|b, title, c|title|content\n1|2|Mug|A mug.\n")
    assert describe.read_titles(tmp_path / "new.csv", config.data) == [{"uid": None, "title": "Mug"}]


@pytest.mark.parametrize("head", ["uid,title", "title", "title;uid", "title\tcontent"])
def test_of_a_table_titles_are_enough(config, tmp_path, head):
    delimiter = next((sign for sign in ",;\t" if sign in head), "")
    row = delimiter.join(
        {"title": "Mug", "uid": "7", "content": "A mug."}[name] for name in head.split(delimiter or " ")
    )
    path = tmp_path / "new.csv"
    path.write_text(f"{head}\n{row}\n")
    expected = {"uid": "7" if "uid" in head else None, "title": "Mug"}
    assert describe.read_titles(path, config.data) == [expected]
    with pytest.raises(Tc3Error, match=r"no column 'titles'\. Did you mean 'title'"):
        describe.read_titles(path, config.change(title_column="titles").data)


def test_settings_are_changed_by_name(config):
    changed = describe.change(config, ["title_column=nome", "max_new_tokens=7", "load_in_4bit=false", "uid_column=7"])
    assert (changed.data.title_column, changed.generation.max_new_tokens) == ("nome", 7)
    assert (changed.model.load_in_4bit, changed.data.uid_column) == (False, "7")
    for name in ("model_name=other", "max_steps=3"):
        with pytest.raises(Tc3Error, match=f"--set {name.partition('=')[0]}: the adapter is already trained"):
            describe.change(config, [name])
    for value in ("x", "-1", "\udce9", "[" * 100_000):
        with pytest.raises(Tc3Error, match="a setting does not fit"):
            describe.change(config, [f"max_new_tokens={value}"])
    with pytest.raises(Tc3Error, match="--set max_new_tokens: expected name=value"):
        describe.change(config, ["max_new_tokens"])
    with pytest.raises(Tc3Error, match=r"there is no setting 'titel_column'\. Did you mean 'title_column'"):
        describe.change(config, ["titel_column=nome"])


def test_answers_come_in_order_and_are_kept_until_all_are_there(base, config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(describe, "CHUNK", 3)
    config = config.change(max_new_tokens=4, generation_batch_size=2)
    rows = [{"uid": str(n), "title": f"Mug {n}" + " of steel" * (n % 3)} for n in range(7)]
    target = tmp_path / "new[1].described.jsonl"

    def generate(titles, kept):
        return generation.generate(*base, titles, config, kept)

    answered = describe.describe(generate, rows, target, "builtin")
    first = [next(answered) for _ in range(5)]
    assert {path.name for path in tmp_path.iterdir()} == {f"{target.name}.{start}.builtin.partial" for start in (0, 3)}
    capsys.readouterr()
    again = list(describe.describe(generate, rows, target, "builtin"))
    out = capsys.readouterr().out
    assert out.count("3 of 3 answers were there already") == 2
    assert [line for line in out.splitlines() if line.startswith("titles")] == [
        "titles 1 to 3 of 7", "titles 4 to 6 of 7", "titles 7 to 7 of 7",
    ]  # fmt: skip
    assert again[:5] == first
    assert [{"uid": row["uid"], "title": row["title"]} for row in again] == rows
    assert all(isinstance(row["answer"], str) and isinstance(row["eos"], bool) for row in again)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    next(describe.describe(generate, rows, target, "vllm"))
    assert kept.items() < {path.name: path.read_bytes() for path in tmp_path.iterdir()}.items()
    describe.forget(target)
    assert not list(tmp_path.iterdir())


def test_a_title_that_leaves_no_room_for_an_answer_is_named_before_any_is_answered(base, config):
    titles = ["Steel Mug", "Kettle of steel " * 1200]
    with pytest.raises(Tc3Error, match=r"the prompt with the title 'Kettle of .* has .* tokens; the model takes 2,048"):
        generation.generate(*base, titles, config.change(max_new_tokens=4, max_seq_length=4096))


def test_the_command_writes_one_file(config, base, tmp_path, monkeypatch):
    source = tmp_path / "new.2.json"
    source.write_text(json.dumps({"nome": "Mug", "uid": "7"}) + "\n")
    with pytest.raises(Tc3Error, match=r"no lora_model in .*: run 03_train first"):
        describe.main([str(tmp_path), str(source)])
    (tmp_path / "lora_model").mkdir()
    with pytest.raises(Tc3Error, match=r"no lora_model in .*: run 03_train first"):
        describe.main([str(tmp_path), str(source)])
    (tmp_path / "lora_model" / "adapter_model.safetensors").touch()
    for name, value in (("LOCAL_RANK", "0"), ("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(Tc3Error, match=r"accelerate launch: tc3lib\.describe runs in one process\."):
        describe.main([str(tmp_path), str(source)])
    monkeypatch.delenv("LOCAL_RANK")
    run = {"run": "1", "data": {}, "settings": {"model": {"load_in_4bit": False, "dtype": "float32", "gone": 1}}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    monkeypatch.delenv("TC3_PRESET", raising=False)
    monkeypatch.setenv("TC3_HOME", "elsewhere")
    (tmp_path / "settings.json").write_text('{"preset": "tiny", "title_column": "nome", "max_new_tokens": 4}')
    loaded = []
    monkeypatch.setattr(model_loading, "load_adapter", lambda folder, settings: loaded.append(settings) or base)
    with (
        alone(tmp_path, tmp_path / "new.2.described.jsonl"),
        pytest.raises(Tc3Error, match=r"another run is writing to .*new\.2\.described\.jsonl: wait until it is done"),
    ):
        describe.main([str(tmp_path), str(source)])
    describe.main([str(tmp_path), str(source), "--set", "max_seq_length=512"])
    assert [(settings.load_in_4bit, settings.dtype) for settings in loaded] == [(False, "float32")]  # as it was trained
    written = (tmp_path / "new.2.described.jsonl").read_text()
    (row,) = map(json.loads, written.splitlines())
    assert (row["uid"], row["title"], row.keys()) == ("7", "Mug", {"uid", "title", "answer", "eos"})
    assert {path.name for path in tmp_path.iterdir()} == {
        "lora_model",
        "run.json",
        "settings.json",
        source.name,
        "new.2.described.jsonl",
    }
    with pytest.raises(Tc3Error, match=r"new\.2\.described\.jsonl already exists: move or rename it"):
        describe.main([str(tmp_path), str(source)])
    assert (tmp_path / "new.2.described.jsonl").read_text() == written
