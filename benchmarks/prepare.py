"""Measure `prepare` and `select` on a file of the real catalogue's size against other ways of doing the same work.

    python benchmarks/prepare.py

writes the catalogue (2 GB, see catalogue.py) if it is not there, runs every contender in turn, each in a process of its
own, as many rounds as asked for, checks that those that follow the recipe's rule wrote the same records, and prints
tables in Markdown. polars and duckdb are needed: benchmarks/requirements.txt.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

INSTRUCTION = "Describe the product [input]"
ROUNDS = 3


def users_loop(source: Path, target: Path) -> None:
    """What the original notebook does."""
    with open(source, encoding="utf-8") as file, open(target, "w", encoding="utf-8") as out:
        for line in file:
            row = json.loads(line)
            title, content = row["title"].strip(), row["content"].strip()
            if title and content:
                response = f"The '{title}' is {content}"
                record = {"instruction": INSTRUCTION, "input_text": title, "response": response}
                out.write(json.dumps(record, ensure_ascii=False) + "\n")


def polars(source: Path, target: Path) -> None:
    """Lazily, streaming, on all cores."""
    import polars as pl

    title, content = pl.col("title").str.strip_chars(), pl.col("content").str.strip_chars()
    (
        pl.scan_ndjson(source, schema={"title": pl.String, "content": pl.String})
        .select(title, content)
        .filter(pl.col("title") != "", pl.col("content") != "")
        .select(
            pl.lit(INSTRUCTION).alias("instruction"),
            pl.col("title").alias("input_text"),
            pl.format("The '{}' is {}", "title", "content").alias("response"),
        )
        .sink_ndjson(target)
    )


def duckdb(source: Path, target: Path) -> None:
    """On all cores, the order of the rows kept."""
    import duckdb as db

    db.execute(
        f"""
        COPY (
            SELECT '{INSTRUCTION}' AS instruction, t AS input_text, 'The ''' || t || ''' is ' || c AS response
            FROM (
                SELECT trim(title, e' \\t\\n\\r') AS t, trim(content, e' \\t\\n\\r') AS c
                FROM read_json('{source}', format = 'newline_delimited',
                               columns = {{title: 'VARCHAR', content: 'VARCHAR'}})
            )
            WHERE t <> '' AND c <> ''
        ) TO '{target}' (FORMAT json)
        """
    )


def ours(workers: int, clean: bool):
    """Return a contender: the library's own function."""

    def run(source: Path, target: Path) -> None:
        from tc3lib import catalogue, settings

        config = settings.get("llama3_8b").change(source=str(source), clean=clean, workers=workers)
        catalogue.prepare(config, target.parent)

    return run


def select(source: Path, target: Path) -> None:
    """Draw the default preset's rows from what a contender before has written."""
    from tc3lib import catalogue, settings

    catalogue.select(settings.get("llama3_8b"), target.parent)


RECIPE = {
    "the user's loop": users_loop,
    "Polars": polars,
    "DuckDB": duckdb,
    "tc3lib, one process": ours(1, clean=False),
    "tc3lib, two workers": ours(2, clean=False),
}
OTHERS = {
    "tc3lib, cleaning, one process": ours(1, clean=True),
    "tc3lib, cleaning, two workers": ours(2, clean=True),
}
WITH_LONG_LINE = {
    "tc3lib, a line of 1 GB, one process": ours(1, clean=False),
    "tc3lib, a line of 1 GB, two workers": ours(2, clean=False),
}
CONTENDERS = RECIPE | OTHERS | WITH_LONG_LINE | {"select": select}


def contend(name: str, source: Path, target: Path) -> None:
    """Run one contender in this process and print its seconds and the largest peak of any process, in MiB."""
    start = time.perf_counter()
    CONTENDERS[name](source, target)
    seconds = time.perf_counter() - start
    own = int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
    largest_child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak": max(own, largest_child) / 1024}))


def measure(names, source: Path, target: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Run the contenders in turn; return each one's figures."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            command = [sys.executable, __file__, "--contender", name, str(source), str(target)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr[-2000:]}")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            last = found[name][-1]
            print(f"round {number + 1}: {name}: {last['seconds']:.2f} s, {last['peak']:.0f} MiB", file=sys.stderr)
            if number == 0 and name in RECIPE:
                found[name][0]["digest"] = digest(target)
    return found


def digest(target: Path) -> str:
    """Return a hash of the records, however they are written."""
    import msgspec

    decode, total = msgspec.json.Decoder(dict[str, str]).decode, hashlib.sha256()
    with open(target, "rb") as file:
        for line in file:
            record = decode(line)
            total.update("\0".join((record["instruction"], record["input_text"], record["response"], "")).encode())
    return total.hexdigest()


def table(found: dict[str, list[dict[str, float]]], size: int | None, reference: str | None) -> str:
    """Return a Markdown table: median seconds (all of them), MB/s, times the reference's speed, peak memory."""
    medians = {name: statistics.median(run["seconds"] for run in runs) for name, runs in found.items()}
    rows = [
        "| | s, median (all) | MB/s | times the user's loop | peak of any process, MiB |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for name, runs in found.items():
        every = ", ".join(f"{run['seconds']:.2f}" for run in runs)
        speed = f"{size / 1e6 / medians[name]:,.0f}" if size else ""
        times = f"{medians[reference] / medians[name]:.1f}" if reference else ""
        peak = max(run["peak"] for run in runs)
        rows.append(f"| {name} | {medians[name]:.2f} ({every}) | {speed} | {times} | {peak:,.0f} |")
    return "\n".join(rows)


def write_long_line(path: Path) -> None:
    """Write good rows around one line of 1 GiB."""
    good = b'{"uid": "0", "title": "Mug", "content": "A mug."}\n' * 1000
    with open(path, "wb") as file:
        file.write(good + b'{"uid": "1", "title": "Long", "content": "')
        file.writelines(b"x" * (1 << 20) for _ in range(1024))
        file.write(b'"}\n' + good)


def machine() -> str:
    """Return one line on what this was measured with."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    names = ", ".join(f"{name} {version(name)}" for name in ("msgspec", "polars", "duckdb", "numpy", "xxhash"))
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {cpu[1] if cpu else platform.machine()}; Python {platform.python_version()}, {names}"


def _folder() -> Path:
    """Return a folder in memory if there is room for the files: then the disk's speed is not measured."""
    memory = Path("/dev/shm")
    return memory / "tc3lib" if memory.is_dir() and shutil.disk_usage(memory).free > 8e9 else Path("benchmark")


def main() -> None:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=_folder(), help="where files go, 7 GB; now %(default)s")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--rows", type=int, help="fewer rows than the real catalogue, to try the script")
    parser.add_argument("--contender", nargs=3, metavar=("NAME", "SOURCE", "TARGET"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        name, source, target = arguments.contender
        contend(name, Path(source), Path(target))
        return
    from catalogue import ROWS, write_catalogue

    rows = arguments.rows or ROWS
    folder = arguments.folder.absolute()
    (folder / "out").mkdir(parents=True, exist_ok=True)
    source, long_line, target = folder / f"trn-{rows}.json", folder / "long.json", folder / "out" / "trn_output.json"
    if not source.exists():
        write_catalogue(source, rows)
    if not long_line.exists():
        write_long_line(long_line)
    size = source.stat().st_size
    print(f"{machine()}. {rows:,} rows, {size / 1e6:,.0f} MB, in {folder}.\n")
    recipe = measure(RECIPE, source, target, arguments.rounds)
    digests = {name: runs[0].pop("digest") for name, runs in recipe.items()}
    print(table(recipe, size, "the user's loop"))
    same = [name for name in digests if digests[name] == digests["the user's loop"]]
    print(f"\nThe same records as the user's loop, in the same order: {', '.join(same)}.\n")
    others = measure(OTHERS, source, target, arguments.rounds)
    others = {"the user's loop (above)": recipe["the user's loop"], **others}
    print(table(others, size, "the user's loop (above)"), "\n")
    draws = measure(["select"], source, target, arguments.rounds)
    print(table(draws, target.stat().st_size, None), "\n")
    print(table(measure(WITH_LONG_LINE, long_line, target, 1), long_line.stat().st_size, None))


if __name__ == "__main__":
    main()
