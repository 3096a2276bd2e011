import json

import pytest

from tc3lib import describe
from tc3lib.errors import Tc3Error


def test_titles_are_read_without_contents_and_tidied(config, tmp_path, capsys):
    lines = ['{"title": " A &amp; B ", "uid": "1"}', '{"title": "C", "content": "c"}', '{"title": ""}', "{", "{}"]
    path = tmp_path / "new.jsonl"
    path.write_text("\n".join(lines) + "\n")
    assert describe.read_titles(path, config.data) == [{"uid": "1", "title": "A & B"}, {"uid": None, "title": "C"}]
    assert f"2 titles in {path}; 3 lines have none" in capsys.readouterr().out
    path.write_text('{"name": "D"}\n')
    assert describe.read_titles(path, config.change(title_column="name").data) == [{"uid": None, "title": "D"}]
    with pytest.raises(Tc3Error, match=r"no title in .*title_column"):
        describe.read_titles(path, config.data)


def test_answers_come_in_order_and_are_kept_until_all_are_there(base, config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(describe, "CHUNK", 3)
    config = config.change(max_new_tokens=4, generation_batch_size=2)
    rows = [{"uid": str(n), "title": f"Mug {n}" + " of steel" * (n % 3)} for n in range(7)]
    target = tmp_path / "new.described.jsonl"
    answered = describe.describe(*base, rows, config, target)
    first = [next(answered) for _ in range(5)]
    assert {path.name for path in tmp_path.iterdir()} == {f"{target.name}.{start}.partial" for start in (0, 3)}
    capsys.readouterr()
    again = list(describe.describe(*base, rows, config, target))
    assert capsys.readouterr().out.count("3 of 3 answers were there already") == 2
    assert again[:5] == first
    assert [{"uid": row["uid"], "title": row["title"]} for row in again] == rows
    assert all(isinstance(row["answer"], str) and isinstance(row["eos"], bool) for row in again)
    describe.forget(target)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_one_file(config, base, tmp_path, monkeypatch):
    (tmp_path / "new.json").write_text(json.dumps({"title": "Mug", "uid": "7"}) + "\n")
    with pytest.raises(Tc3Error, match=r"no lora_model in .*: run 03_train first"):
        describe.main([str(tmp_path), str(tmp_path / "new.json")])
    (tmp_path / "lora_model").mkdir()
    monkeypatch.setenv("TC3_PRESET", "tiny")
    monkeypatch.setenv("TC3_HOME", "elsewhere")
    monkeypatch.setattr(describe.presets, "get", lambda name: config.change(max_new_tokens=4))
    monkeypatch.setattr(describe.models, "load_adapter", lambda folder, settings: base)
    describe.main([str(tmp_path), str(tmp_path / "new.json")])
    (row,) = map(json.loads, (tmp_path / "new.described.jsonl").read_text().splitlines())
    assert (row["uid"], row["title"], row.keys()) == ("7", "Mug", {"uid", "title", "answer", "eos"})
    assert {path.name for path in tmp_path.iterdir()} == {"lora_model", "new.json", "new.described.jsonl"}
