import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from catalogues import configured, json_lines, prepared, rows, written

from tc3lib import catalogue, settings
from tc3lib.errors import Tc3Error
from tc3lib.prompts import format_record

module = sys.modules["tc3lib.catalogue.prepare"]  # the package's attribute of that name is the function
OUTPUTS = ("trn_output.json", "trn_output.uid.jsonl", "quarantine.jsonl")


def outputs(work):
    return {name: (work / name).read_bytes() for name in OUTPUTS if (work / name).exists()}


def recipe(source):
    """The user's own loop: strip, keep if both are there, format."""
    kept = []
    with open(source, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            title, content = row["title"].strip(), row["content"].strip()
            if title and content:
                response = f"The '{title}' is {content}"
                kept.append({"instruction": "Describe the product [input]", "input_text": title, "response": response})
    return kept


def test_without_cleaning_it_is_the_users_rule_record_for_record(tmp_path):
    config = settings.get("tiny").change(clean=False)
    report = catalogue.prepare(config, tmp_path)
    expected = recipe(config.data.fallback_source)
    assert rows(tmp_path / "trn_output.json") == expected
    assert report.kept == len(expected)


def test_every_line_is_accounted_for(tmp_path):
    lines = [
        '{"uid": "a", "title": "Mug", "content": "A mug."}',
        '{"title": " ", "content": "A mug."}',
        '{"title": "Mug", "content": ""}',
        '{"title": "", "content": "  "}',
        '{"title": "Mug", "content": "&nbsp; &#xA0;"}',
        "",
        "not json",
        '{"title": {"en": "Mug"}, "content": "x"}',
        '{"title": "Mug"}',
        '{"title": "Pan", "content": "A pan.", "uid": 7.5, "other": [[{}]]}',
        '{"title": "Cup", "content": null}',
    ]
    whole = "\n".join(lines).encode()
    found = prepared(written(tmp_path, whole), max_damaged=0.3)
    assert (found.report.read, found.report.kept) == (11, 2)
    assert found.report.dropped == {
        "blank_title": 1, "blank_content": 3, "blank_both": 1, "blank_after_cleaning": 1, "empty_line": 1, "damaged": 2,
    }  # fmt: skip
    assert found.records == [format_record("Mug", "A mug."), format_record("Pan", "A pan.")]
    assert found.uids == ["a", 7.5]
    assert [row["line"] for row in found.quarantine] == [7, 8]
    for row in found.quarantine:
        assert whole[row["offset"] :].startswith(lines[row["line"] - 1].encode())
    assert found.quarantine[1]["reason"] == "expected text, got `dict`"
    report = json.loads((tmp_path / "prepare_report.json").read_text())
    assert report == {**vars(found.report), "seconds": report["seconds"]}


def test_an_old_quarantine_that_cannot_be_removed_is_named(tmp_path, monkeypatch):
    def refuse(path, missing_ok=False):
        if path.name == "quarantine.jsonl":
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, missing_ok)

    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(Tc3Error, match=r"quarantine\.jsonl: Permission denied"):
        prepared(written(tmp_path, json_lines([{"title": "Mug", "content": "A mug."}])))


def test_a_second_run_changes_no_byte_and_without_damage_leaves_no_old_quarantine(tmp_path):
    (tmp_path / "quarantine.jsonl").write_text("old")
    found = []
    for _ in range(2):
        catalogue.prepare(settings.get("tiny"), tmp_path)
        found.append(outputs(tmp_path))
    assert found[0] == found[1]
    assert {path.name for path in tmp_path.iterdir()} == {*OUTPUTS[:2], "prepare_report.json"}


@pytest.mark.parametrize("damage", [0.001, 0.5])
def test_any_number_of_workers_writes_the_same_bytes(tmp_path, monkeypatch, damage):
    """A worker that holds many damaged lines writes before its range is done."""
    monkeypatch.setattr(module, "RANGE_BYTES", 100_000)
    monkeypatch.setattr(module, "MANY_DAMAGED", 300)
    draw = random.Random(0)
    products = json_lines({"uid": str(n), "title": f"Mug {n}", "content": f"A mug {n}." * (n % 7)} for n in range(9000))
    lines = [line if draw.random() > damage else b"damaged" for line in products.splitlines()]
    source = written(tmp_path, b"\n".join(lines))
    found = []
    for count in (1, 2, 3, 20):
        report = prepared(source, max_damaged=1, workers=count).report
        found.append((report.read, report.kept, report.dropped, outputs(tmp_path)))
    assert found[0] == found[1] == found[2] == found[3]
    numbers = [number for number, line in enumerate(lines, 1) if line == b"damaged"]
    assert [row["line"] for row in rows(tmp_path / "quarantine.jsonl")] == numbers != []


def test_a_catalogue_without_usable_rows_is_named_and_the_old_files_stay(tmp_path):
    (tmp_path / "trn_output.json").write_text("old")
    source = written(tmp_path, b'{"name": "Mug"}\n')
    with pytest.raises(
        Tc3Error, match=r"trn\.json has no row with a title and a content in 1 lines.*no column 'title'"
    ):
        prepared(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trn.json", "trn_output.json"]
    assert (tmp_path / "trn_output.json").read_text() == "old"


def test_too_many_damaged_lines_stop_it_and_the_first_three_are_shown(tmp_path):
    lines = [json.dumps({"title": f"Mug {n}", "content": "A mug."}) for n in range(396)]
    for spoilt in (5, 6, 7, 300):
        lines.insert(spoilt, "spoilt")
    source = written(tmp_path, "\n".join(lines).encode())
    assert prepared(source, max_damaged=0.01).report.dropped == {"damaged": 4}
    before = outputs(tmp_path)
    with open(source, "a") as file:
        file.write("\nspoilt")
    with pytest.raises(Tc3Error) as caught:
        prepared(source, max_damaged=0.01)
    message = str(caught.value)
    assert "5 of 401 lines are damaged, 1.2%; at most 1.0% (max_damaged)" in message
    assert [f'"line":{number},' in message for number in (6, 7, 8, 301)] == [True, True, True, False]
    assert f'"offset":{source.read_bytes().index(b"spoilt")},' in message
    assert outputs(tmp_path) == before
    assert prepared(source, max_damaged=0.02).report.kept == 396


@pytest.mark.parametrize(
    ("clean", "lines", "usable", "remark"),
    [
        (False, 10, 7, "This is the whole LF-AmazonTitles-1.3MM: 10 lines, 7 usable before cleaning."),
        (True, 10, 7, "This is the whole LF-AmazonTitles-1.3MM: 10 lines, 7 usable before cleaning."),
        (True, 10, 8, "As many lines as LF-AmazonTitles-1.3MM (10), but 7 usable before cleaning, not 8"),
        (True, 11, 7, ""),
    ],
)
def test_the_whole_catalogue_of_the_challenge_is_recognised(
    tmp_path, monkeypatch, capsys, clean, lines, usable, remark
):
    assert (module.FULL_LINES, module.FULL_USABLE) == (2_248_619, 1_390_403)
    monkeypatch.setattr(module, "FULL_LINES", lines)
    monkeypatch.setattr(module, "FULL_USABLE", usable)
    contents = ["A mug."] * 6 + ["&nbsp;"] + [""] * 3
    source = written(tmp_path, json_lines({"title": "Mug", "content": content} for content in contents))
    report = prepared(source, clean=clean).report
    assert report.remark.startswith(remark) if remark else report.remark == ""
    assert capsys.readouterr().out.splitlines() == [f"catalogue {source}", *filter(None, [report.remark])]
    assert report.kept == (6 if clean else 7)


def test_what_cleaning_changes_is_shown_before_and_after(tmp_path):
    noted = "Tea&nbsp;for two.--This text refers to theHardcoveredition."
    products = [
        {"uid": "a", "title": "Mug", "content": " A mug. "},
        {"uid": "b", "title": "Tom &amp; Co", "content": noted},
        {"uid": "c", "title": None, "content": "1  2"},
    ]
    config = configured(written(tmp_path, json_lines(products)))
    assert catalogue.before_and_after(config, tmp_path) == [
        {"uid": "c", "before": "1  2", "after": "1 2"},
        {"uid": "b", "before": "Tom &amp; Co", "after": "Tom & Co"},
        {"uid": "b", "before": noted, "after": "Tea for two."},
    ]
    assert len(catalogue.before_and_after(settings.get("tiny"), tmp_path / "no folder", rows=3)) == 3
    config = configured(written(tmp_path, json_lines([{"uid": "a", "title": "CafÃ©", "content": "Tea &amp; Co"}])))
    shown = catalogue.before_and_after(config.change(fix_encoding=True), tmp_path)
    assert [row["after"] for row in shown] == ["Café", "Tea & Co"]
    assert catalogue.before_and_after(config.change(clean=False), tmp_path) == []


def test_the_bar_shows_the_rows_and_the_time_left(tmp_path, capsys):
    prepared(written(tmp_path, json_lines([{"title": "Mug", "content": "A mug."}] * 1234)))
    last = capsys.readouterr().err.split("\r")[-1]
    assert re.search(r"trn\.json: 100%\|.*\[\d\d:\d\d<\d\d:\d\d, .*B/s, 1,234 rows\]", last)


LARGE = """
import sys
from pathlib import Path
from tc3lib import catalogue, settings
source, work, workers = sys.argv[1:]
config = settings.get("tiny").change(source=source, workers=int(workers), max_damaged=1)
catalogue.prepare(config, Path(work))
"""  # as in a notebook, without `if __name__ == "__main__"`


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A catalogue that takes long enough to be interrupted: 200,000 rows."""
    path = tmp_path_factory.mktemp("large") / "trn.json"
    line = json.dumps({"uid": "a", "title": "Mug &amp; Co", "content": "A mug of  steel. " * 20})
    path.write_text(f"{line}\n" * 200_000)
    return path


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_the_old_files_and_no_worker(tmp_path, large, count):
    """What is left of a killed run is a hidden file, which goes with the next run."""
    old = dict.fromkeys(OUTPUTS, b"old")
    command = [sys.executable, "-c", LARGE, str(large), str(tmp_path), str(count)]
    draw, killed = random.Random(count), 0
    for _ in range(10):
        for name, content in old.items():
            (tmp_path / name).write_bytes(content)
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            process.wait(draw.uniform(0.05, 0.7))
        except subprocess.TimeoutExpired:
            killed += 1
        process.kill()
        assert b"Error" not in process.communicate()[1]  # ends when no worker holds the pipe open any more
        found = outputs(tmp_path)
        if found != old:  # it was done, or about to be
            assert found["trn_output.uid.jsonl"].count(b"\n") == 200_000
            assert found["trn_output.json"] == b"old" or found["trn_output.json"].count(b"\n") == 200_000
    assert killed
    catalogue.prepare(configured(large, workers=count), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*OUTPUTS[:2], "prepare_report.json"}


GOOD = b'{"uid": "a", "title": "Mug", "content": "A mug."}\n'
HEAVY = {
    "a line of 200 MB": GOOD * 150 + b'{"title": "' + b"x" * (200 << 20) + b'", "content": "y"}\n' + GOOD * 150,
    "damaged lines": GOOD + b"x\n" * 1_100_000,
    "short rows": b'{"title":"a","content":"b"}\n' * 600_000,
    "long titles": (b'{"title": "' + b"x" * 1_000_000 + b'", "content": "y"}\n') * 12,
    "long title with an emoji": b'{"title": "' + b"x" * 1_000_000 + "😀".encode() + b'", "content": "y"}\n',
    "one word after the other": b'{"title": "a", "content": "\\t' + b"ab " * 340_000 + b'"}\n',
    "text that NFC makes longer": b'{"title": "' + "\U0001d160".encode() * 250_000 + b'", "content": "y"}\n',
}


@pytest.mark.parametrize("name", HEAVY)
@pytest.mark.slow
def test_memory_stays_below_64_mib_whatever_json_lines_hold(tmp_path, name):
    source = written(tmp_path, HEAVY[name])
    code = LARGE + (
        "import re, resource\n"
        "own = re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]\n"  # ru_maxrss counts before exec
        "print(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    for count in ("1", "2"):
        done = subprocess.run([sys.executable, "-c", code, source, tmp_path, count], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert max(map(int, done.stdout.splitlines()[-1].split())) < 64 << 10
        if name == "a line of 200 MB":
            (row,) = rows(tmp_path / "quarantine.jsonl")
            assert row == {"line": 151, "offset": 150 * len(GOOD), "reason": "longer than 1,048,576 bytes"}
            assert len(rows(tmp_path / "trn_output.json")) == 300


def kill(*_):
    os.kill(os.getpid(), 9)


def fail(*_):
    raise KeyError("broken")


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("convert", "error", "message"),
    [
        (kill, Tc3Error, r"a worker of 01_prepare ended too early.*or set workers=1"),
        (fail, KeyError, "broken"),
        (interrupt, KeyboardInterrupt, None),
    ],
)
def test_a_worker_that_ends_badly_leaves_nothing(tmp_path, large, monkeypatch, convert, error, message):
    monkeypatch.setattr(module, "_convert", convert)  # the workers are forked: they see it
    with pytest.raises(error, match=message):
        catalogue.prepare(configured(large, workers=2), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_source_with_any_name_is_read_by_workers_too(tmp_path):
    assert prepared(written(tmp_path, GOOD, os.fsdecode(b"caf\xe9.json")), workers=2).titles == ["Mug"]
