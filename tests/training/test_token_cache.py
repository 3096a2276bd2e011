"""Rows are tokenised once, kept on the local disk, and made again whenever anything about them is not as it was."""

import errno
import fcntl
import hashlib
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from runs import prepared

from tc3lib import prompts
from tc3lib.errors import Tc3Error
from tc3lib.files import each_row, write_rows
from tc3lib.training import token_cache

LONG = prompts.format_record("very " * 600, "A mug.")


@pytest.fixture(autouse=True)
def local(tmp_path, monkeypatch):
    """The local disk of this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "local"))
    return tmp_path / "local" / f"tc3-tokens-{os.getuid()}"


@pytest.fixture
def written(rows, tmp_path):
    write_rows(tmp_path / "train.jsonl", rows)
    return tmp_path / "train.jsonl"


@pytest.fixture
def times(monkeypatch):
    """How often rows are tokenised."""
    calls, encode_rows = [], token_cache.encode_rows

    def counted(tokenizer, some, max_length, template):
        calls.append(len(some))
        return encode_rows(tokenizer, some, max_length, template)

    monkeypatch.setattr(token_cache, "encode_rows", counted)
    return calls


def load(tokenizer, path, max_length=512, template="t"):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return token_cache.load(tokenizer, path, [digest, template], max_length)


def test_rows_come_from_the_disk_as_they_were_encoded(tokenizer, rows, written, local, times):
    first, again = load(tokenizer, written), load(tokenizer, written)
    assert times == [len(rows)]
    expected = prompts.encode_rows(tokenizer, rows, 512)
    assert list(first.rows) == list(again.rows) == expected
    assert token_cache.lengths(again.rows) == [len(row["input_ids"]) for row in expected]
    (arrow,) = local.glob("*.arrow")
    assert [file["filename"] for file in again.rows.cache_files] == [str(arrow)]  # mapped, not read
    assert {path.name for path in written.parent.iterdir()} == {"train.jsonl", "local"}


def test_another_length_prompt_tokenizer_or_row_is_tokenised_again(tokenizer, rows, written, times):
    from copy import deepcopy

    from tokenizers.normalizers import Replace

    repaired = deepcopy(tokenizer)
    repaired.backend_tokenizer.normalizer = Replace("cm", "mm")
    load(tokenizer, written)
    assert token_cache.lengths(load(tokenizer, written, max_length=90).rows) == [90] * len(rows)
    load(tokenizer, written, template="u")
    assert load(repaired, written).rows[0] != load(tokenizer, written).rows[0]
    assert len(times) == 4
    write_rows(written, rows[1:])
    assert len(load(tokenizer, written).rows) == len(rows) - 1


@pytest.mark.parametrize("damage", ["flipped", "cut", "without its note", "note cut", "missing"])
def test_what_is_damaged_or_missing_is_made_again(tokenizer, written, local, times, damage):
    before = list(load(tokenizer, written).rows)
    ((arrow,), (note,)) = (local.glob(pattern) for pattern in ("*.arrow", "*.json"))
    content = bytearray(arrow.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        arrow.write_bytes(content)
    elif damage == "cut":
        arrow.write_bytes(content[: len(content) // 2])
    elif damage == "note cut":
        note.write_bytes(note.read_bytes()[:9])
    else:
        (note if damage == "without its note" else arrow).unlink()
    assert list(load(tokenizer, written).rows) == before
    assert len(times) == 2


def test_of_several_processes_one_tokenises(tokenizer, rows, written, times):
    with ThreadPoolExecutor(4) as pool:  # a lock of flock is the open file's, in threads too
        found = [*pool.map(lambda _: load(tokenizer, written), range(4))]
    assert times == [len(rows)]
    assert [len(tokens.rows) for tokens in found] == [len(rows)] * 4


def test_tokens_that_were_not_used_for_days_are_removed_and_others_stay(tokenizer, rows, written, local, times):
    old = time.time() - (token_cache.DAYS + 1) * 24 * 3600
    opened = load(tokenizer, written, template="opened").rows
    for template in ("opened", "locked", "used"):
        load(tokenizer, written, template=template)
    arrows = {path.stem for path in local.glob("*.arrow")}
    killed = local / "killed.new"
    killed.touch()
    for path in (*local.glob("*.arrow"), killed):
        os.utime(path, (old, old))
    load(tokenizer, written, template="used")  # which was old too
    (used,) = local.glob("*.arrow")
    assert not killed.exists() and {path.stem for path in local.glob("*.json")} == arrows | {"killed"}
    assert len(opened) == len(rows) and opened[0] == load(tokenizer, written, template="used").rows[0]
    os.utime(used, (old, old))
    with open(used.with_suffix(".json"), "ab") as lock:  # another process is about to open it
        fcntl.flock(lock, fcntl.LOCK_EX)
        load(tokenizer, written)
    assert used.exists() and len(times) == 4
    load(tokenizer, written)
    assert not used.exists()


def test_a_full_local_disk_is_reported_and_leaves_nothing(tokenizer, written, local, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(token_cache.pyarrow.ipc, "new_stream", full)
    with pytest.raises(Tc3Error, match=r"cannot write the tokens of .*: No space left on device\. .* or set TMPDIR"):
        load(tokenizer, written)
    assert [path.suffix for path in local.iterdir()] == [".json"]
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(local.parent))
    assert len(load(tokenizer, written).rows) == 32


def test_rows_whose_title_fills_max_seq_length_are_dropped_and_counted(config, rows, tmp_path, monkeypatch):
    """As where `max_seq_length` was lowered after 01, which drops them itself."""
    made = prepared(config, [LONG, *rows, LONG, LONG], tmp_path / "work", held_out=3)
    assert (len(made.train_rows), len(made.eval_rows), made.plan.rows) == (len(rows), 2, len(rows))
    assert str(made).endswith(
        f"{len(rows)} end in a learned eos, 0 were cut at 512 tokens; 3 more were dropped, their title fills "
        "max_seq_length; 1 held-out rows were dropped for the same reason"
    )
    assert list(made.train_rows) == prompts.encode_rows(made.tokenizer, rows, 512)
    read = []
    monkeypatch.setattr(
        "tc3lib.training.run.each_row", lambda path: (read.append(row) or row for row in each_row(path))
    )
    assert made.show(2).data.count("<pre>") == 2
    assert len(read) == 3
    with pytest.raises(Tc3Error, match=r"eval\.jsonl: every title fills max_seq_length=512: raise it, or run 01"):
        prepared(config, [LONG, *rows], tmp_path / "none", held_out=1)


def test_many_rows_are_read_in_parts_and_a_fault_is_named_by_its_row(tokenizer, rows, tmp_path, monkeypatch, times):
    monkeypatch.setattr(token_cache, "ROWS", 10)
    work = tmp_path / "train.jsonl"
    write_rows(work, [LONG, *rows])
    found = load(tokenizer, work)
    assert (times, len(found.rows), found.dropped) == ([10, 10, 10, 3], len(rows), 1)
    assert list(found.rows) == prompts.encode_rows(tokenizer, rows, 512)
    encode = token_cache.encode_rows

    def spoilt(tokenizer, some, max_length, template):
        return [row | {"completion_mask": [0] * 9} if row and len(some) < 10 else row
                for row in encode(tokenizer, some, max_length, template)]  # fmt: skip

    monkeypatch.setattr(token_cache, "encode_rows", spoilt)
    with pytest.raises(Tc3Error, match=r"train\.jsonl, row 31 .* has no label"):
        load(tokenizer, work, max_length=511)
