"""`python -m tc3lib FOLDER`: list the settings of a run, its files and its scores."""

import argparse
from pathlib import Path

from tc3lib.checkpoints import run_record
from tc3lib.errors import show_alone
from tc3lib.files import read_json
from tc3lib.runtime import kept_settings
from tc3lib.runtime.workspace import STAGES


def summary(work: Path) -> str:
    """Return the settings, each stage's files with their sizes, then the scores before and after training."""
    lines = [kept_settings.describe(kept_settings.load(work), work)] if (work / kept_settings.NAME).exists() else []
    lines.append(f"Results in {work}:")
    for name, stage in STAGES.items():
        if name == "05_export" and not (work / "export.json").exists():
            continue  # it is optional
        files = [f"{path} ({_size(work / path)})" for path in stage.writes if (work / path).exists()]
        lines.append(f"  {name:<12} {', '.join(files) or 'not run yet'}")
    if report := read_json(work / "report.json"):
        if not run_record.tested(report, work):
            lines.append("These scores are of an earlier run: 04_posttest was not run with the adapter of this one.")
        lines.append(report["verdict"]["sentence"])
        lines.append(f"Before and after training, on {report['rows']['eval']} held-out titles:")
        for name, metric in report["metrics"].items():
            found = metric["parts"]["eval"]
            before, after = (
                "-" if found[when] is None else f"{found[when]:.{metric['digits']}f}" for when in ("before", "after")
            )
            lines.append(f"  {name:<16} {before:>8} -> {after:<8} {found['says']}")
    return "\n".join(lines)


def _size(path: Path) -> str:
    files = path.rglob("*") if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tc3lib", description=summary.__doc__)
    parser.add_argument("folder", type=Path, help="the work folder, for example runs/tiny")
    show_alone()
    print(summary(parser.parse_args().folder))
