"""Run `catalogue.prepare` on a file of given bytes and read back what became of it."""

import json
from dataclasses import dataclass
from pathlib import Path

from tc3lib import catalogue, settings


@dataclass
class Prepared:
    report: catalogue.PrepareReport
    records: list[dict]
    uids: list
    quarantine: list[dict]

    @property
    def titles(self):
        return [record["input_text"] for record in self.records]

    @property
    def kept(self):
        return list(zip(self.uids, self.titles, strict=True))

    @property
    def damaged(self):
        return [(row["line"], row["reason"]) for row in self.quarantine]


def rows(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def configured(source, **changes):
    return settings.get("tiny").change(source=str(source), **changes)


def prepared(source: Path, max_damaged=0, **changes):
    """Prepare a file in the folder that it is in."""
    work = source.parent
    report = catalogue.prepare(configured(source, max_damaged=max_damaged, **changes), work)
    assert report.read == report.kept + sum(report.dropped.values())
    found = Prepared(
        report, *(rows(work / f"{name}") for name in ("trn_output.json", "trn_output.uid.jsonl", "quarantine.jsonl"))
    )
    assert len(found.records) == len(found.uids) == report.kept
    assert len(found.quarantine) == report.dropped.get("damaged", 0)
    return found


def written(folder, content, name="trn.json"):
    (folder / name).write_bytes(content)
    return folder / name


def json_lines(products):
    return "".join(json.dumps(product, ensure_ascii=False) + "\n" for product in products).encode()
