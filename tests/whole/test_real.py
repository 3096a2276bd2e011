"""What `make real` is made of: Debian's descriptions as a catalogue, and which answers may be shown."""

import importlib.util
import os
from pathlib import Path

import pytest

from tc3lib.errors import Tc3Error

ROOT = Path(__file__).parents[2]
LIST = """Package: kettle
Description-md5: 0a
Description-en: boils water
 It boils water, and
 says so.
 .
  * with a whistle
  * without

Package: kettle-doc
Description-md5: 0b
Description-en: boils water (documentation)

Package: broken
Description-md5: 0c
"""


def load(name):
    spec = importlib.util.spec_from_file_location(name.rpartition("/")[2], ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_list_of_apt_becomes_products_and_suites_that_repeat_one_another_count_once():
    debian = load("data/fetch_debian")
    assert debian.without_repeats(debian.products(LIST + "\n" + LIST)) == [
        {
            "uid": "kettle",
            "title": "boils water",
            "content": "It boils water, and\nsays so.\n\n * with a whistle\n * without",
        },
        {"uid": "kettle-doc", "title": "boils water (documentation)", "content": ""},
    ]


@pytest.mark.parametrize("script", [None, "echo 'E: no network' >&2; exit 100"])
def test_without_a_working_apt_a_line_says_so(tmp_path, monkeypatch, script):
    monkeypatch.setenv("PATH", str(tmp_path))
    if script:
        apt = tmp_path / "apt-get"
        apt.write_text(f"#!/bin/sh\n{script}\n")
        os.chmod(apt, 0o755)
    with pytest.raises(Tc3Error, match="E: no network" if script else "there is no apt-get on this machine"):
        load("data/fetch_debian").fetch(tmp_path / "lists")


def test_an_answer_with_eight_words_in_a_row_of_a_description_is_not_shown():
    descriptions = ["One two three, four five six seven EIGHT nine.", "Short."]
    rows = [
        {"answer": "It says: two three four five six seven eight nine, they say."},
        {"answer": "One two three four five six seven, eighty."},
        {"answer": "Short."},
    ]
    assert load("benchmarks/real").own_words(rows, descriptions) == rows[1:]
