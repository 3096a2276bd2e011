import os

import pytest

from tc3lib import files
from tc3lib.errors import Tc3Error


def test_rows_come_back_and_a_damaged_line_is_named(tmp_path):
    rows = [{"uid": None, "title": "né"}, {"n": 1}]
    files.write_rows(tmp_path / "rows.jsonl", rows)
    assert files.read_rows(tmp_path / "rows.jsonl") == rows
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"b":\n')
    with pytest.raises(Tc3Error, match=r"rows\.jsonl, line 2: .*Delete the file and run its notebook again"):
        files.read_rows(tmp_path / "rows.jsonl")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(Tc3Error, match=r"cannot write .*nowhere/rows\.jsonl: No such file or directory"):
        files.write_rows(tmp_path / "nowhere" / "rows.jsonl", [])


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    (tmp_path / "rows.jsonl").write_text("old")

    def rows():
        yield {"n": 1}
        assert (tmp_path / "rows.jsonl").read_text() == "old"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_rows(tmp_path / "rows.jsonl", rows())
    assert (tmp_path / "rows.jsonl").read_text() == "old"
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_json_document_is_readable_by_people(tmp_path):
    files.write_json(tmp_path / "report.json", {"n": 1, "name": "né"})
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == '{\n  "n": 1,\n  "name": "né"\n}\n'


def test_a_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(Tc3Error, match=r"no file .*rows\.jsonl: run the notebooks before this one first"):
        files.read_rows(tmp_path / "rows.jsonl")
