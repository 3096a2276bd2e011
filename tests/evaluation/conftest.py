"""What several tests of answers need."""

import pytest

from tc3lib.catalogue.lookup import Catalogue
from tc3lib.files import write_rows


@pytest.fixture(scope="module")
def catalogue(rows, tmp_path_factory):
    """The rows, the first 16 of them trained on."""
    work = tmp_path_factory.mktemp("work")
    write_rows(work / "trn_output.json", ({key: row[key] for key in ("input_text", "response")} for row in rows))
    (work / "trn_output.uid.jsonl").write_text("".join(f'"{row["uid"]}"\n' for row in rows))
    write_rows(work / "train.jsonl", rows[:16])
    return Catalogue(work)
