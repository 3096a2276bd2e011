"""Compare the answers before and after training: has it learned? The result is what `report.json` holds."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tc3lib.errors import Tc3Error
from tc3lib.evaluation import copies, metrics
from tc3lib.evaluation.answers import by_part, check_same, recorded
from tc3lib.files import read_json, read_rows
from tc3lib.settings import Settings

SHOWN = 3
"""Answers of each kind (best, worst, most changed) in the report."""


def compare(work: Path, config: Settings) -> dict[str, Any]:
    """Return the comparison of `pretest.jsonl` with `posttest.jsonl`.

    Returns:
        `verdict` (`better`, `sentence`, `learned`); `rows` by part; `metrics`, each with its label and, by part, the
        result of `metrics.compare`; `answers`: the `demo`, `best`, `worst` and `most_changed` pairs; and about the
        run: `data` (rows), `settings`, `plan`, `prompt`, `end`, `versions`, `gpu`, `time` (seconds), `memory` (GiB),
        `run`.

    Raises:
        Tc3Error: A file is missing, the two tests did not ask the same questions or differ in their set-up, or none is
            held out.
    """
    tests = ("pretest", "posttest")
    made = [recorded(work, name) for name in tests]
    check_same(*made)
    before, after = (read_rows(work / f"{name}.jsonl") for name in tests)
    both, template = joined(before, after), config.prompting
    old, new = by_part(before), by_part(after)
    copied = copies.copying((row for half in (old, new) for rows in half.values() for row in rows), work, template)
    sums = {part: tuple(metrics.score(half[part], copied, template) for half in (old, new)) for part in old}
    compared = {
        name: {
            "label": metric.label,
            "better": metric.better,
            "digits": metric.digits,
            "parts": {part: metrics.compare(name, b[name], a[name]) for part, (b, a) in sums.items()},
        }
        for name, metric in metrics.METRICS.items()
    }
    run = read_json(work / "run.json")
    result, prepared = run.get("result", {}), read_json(work / "prepare_report.json")
    near_twins = prepared.get("selected", {}).get("near_twins_kept", 0)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model_name": made[1]["model"],
        "run": run.get("run"),
        "steps": result.get("steps"),
        "verdict": {**verdict(compared, near_twins), "learned": learned(compared, sums)},
        "rows": {part: sum(row["part"] == part for row in after) for part in ("eval", "train", "demo")},
        "metrics": compared,
        "answers": _examples(both),
        "data": _accounting(prepared),
        "settings": dataclasses.asdict(config) | run.get("settings", {}),
        "plan": run.get("plan", {}),
        "prompt": run.get("prompt"),
        "end": run.get("end"),
        "versions": run.get("versions", {}),
        "gpu": run.get("device"),
        "time": {
            "02_pretest: answers": round(sum(row["seconds"] for row in before), 1),
            "03_train: training, the last call": result.get("seconds_of_last_call"),
            "04_posttest: answers": round(sum(row["seconds"] for row in after), 1),
        },
        "memory": result.get("memory", {}),
    }


def verdict(compared: Mapping[str, Any], near_twins: int = 0) -> dict[str, Any]:
    """Say in a sentence whether the answers to held-out titles are better than before.

    They are if four metrics are better, with intervals that exclude 0, and the answers do not end less often: the real
    descriptions have become likelier (loss), the answers are closer to them (ROUGE-L and chrF: one of the two rose once
    after training on shuffled descriptions), and by more than to another product's description (own).

    Args:
        compared: The `metrics` of `compare`.
        near_twins: Held-out rows that are near twins of rows trained on.
    """
    held_out = {name: metric["parts"]["eval"] for name, metric in compared.items()}
    if bad := held_out["loss"].get("not_numbers"):
        sentence = (
            f"Whether it is better cannot be said: the loss of {bad['before']} held-out descriptions before training, "
            f"and of {bad['after']} after it, is not a number."
        )
        return {"better": False, "sentence": sentence}
    says = {name: found["says"] for name, found in held_out.items()}
    against = {name: says[name] != "better" for name in ("loss", "rougeL", "chrf", "own")}
    against["eos_rate"] = says["eos_rate"] == "worse"
    where = "on products that it was not trained on"
    if near_twins:
        where += f" ({near_twins} of them near twins of some that it was)"
    if says["loss"] == "too few questions":
        shown = "; ".join(_change(name, compared) for name in ("loss", "rougeL"))
        sentence = f"Whether it is better {where} cannot be said, with fewer than {metrics.FEWEST} questions: {shown}."
        return {"better": False, "sentence": sentence}
    if not any(against.values()):
        shown = "; ".join(_change(name, compared) for name in ("loss", "rougeL"))
        return {"better": True, "sentence": f"Better than before {where}: {shown}."}
    shown = "; ".join(f"{_change(name, compared)}, {says[name]}" for name, bad in against.items() if bad)
    return {"better": False, "sentence": f"Not better than before {where}: {shown}."}


def learned(compared: Mapping[str, Any], sums: Mapping[str, Any]) -> str:
    """Say whether the loss also fell on held-out rows, and whether training descriptions were memorised.

    Args:
        compared: As for `verdict`.
        sums: By part, the pairs of `metrics.score` before and after.
    """
    found = compared["loss"]["parts"]
    if "train" not in found:
        return "Whether it memorised training descriptions was not measured: no questions are of the training set."
    if any(part["says"] == "not measured" for part in found.values()):
        return "Whether it memorised training descriptions cannot be said: some losses are not numbers."
    if any(part["says"] == "too few questions" for part in found.values()):
        return f"Whether it memorised training descriptions cannot be said from fewer than {metrics.FEWEST} questions."
    draws = [
        metrics.differences("loss", *(half["loss"] for half in sums[part]), seed) for seed, part in enumerate(found)
    ]
    low, high = metrics.interval(draws[0] - draws[1])
    change = {part: values["difference"] for part, values in found.items()}
    says = {part: f"{'rose' if by > 0 else 'fell'} by {abs(by):.4f}" for part, by in change.items()}
    shown = (
        f"the loss {says['train']} on products that it was trained on and {says['eval']} on others "
        f"(difference {change['eval'] - change['train']:.4f}, 95 % interval {low:.4f} to {high:.4f})"
    )
    carries_over = found["eval"]["says"] == "better"
    memorised = found["train"]["says"] == "better" and low > 0
    if carries_over and memorised:
        return (
            f"The lower loss carries over to held-out products, and training descriptions were memorised too: {shown}."
        )
    if carries_over:
        return f"The lower loss carries over to held-out products; no memorisation is shown: {shown}."
    if memorised:
        return f"Training descriptions were memorised; no gain on held-out products is shown: {shown}."
    return f"No learning is shown: {shown}."


def joined(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of both tests joined: the answers as `before` and `after`, each with its ROUGE-L.

    Raises:
        Tc3Error: The two tests did not ask the same questions in the same order.
    """
    asked = [[(row["uid"], row["part"], row["title"], row["reference"]) for row in rows] for rows in (before, after)]
    if asked[0] != asked[1]:
        raise Tc3Error(
            f"the pretest ({len(before)} answers) and the posttest ({len(after)}) did not ask the same questions: run "
            "02_pretest and 04_posttest again after 01_prepare."
        )
    return [
        {
            **{key: new[key] for key in ("uid", "part", "title", "reference")},
            "before": old["answer"],
            "after": new["answer"],
            **{
                f"rougeL_{when}": None if new["reference"] is None else metrics.rouge_l(row["answer"], new["reference"])
                for when, row in (("before", old), ("after", new))
            },
        }
        for old, new in zip(before, after, strict=True)
    ]


def _change(name: str, compared: Mapping[str, Any]) -> str:
    """Return "loss 0.8197 to 0.0706"."""
    metric = compared[name]
    found, names = metric["parts"]["eval"], {"rougeL": "ROUGE-L", "chrf": "chrF", "eos_rate": "ended by itself"}
    values = [f"{found[when]:.{metric['digits']}f}" for when in ("before", "after")]
    return f"{names.get(name, name)} {' to '.join(values)}"


def _examples(both: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the demo titles, and of the held-out answers the best, the worst, and the most changed of the others."""
    held_out = sorted((row for row in both if row["part"] == "eval"), key=lambda row: row["rougeL_after"])
    best, others = held_out[::-1][:SHOWN], held_out[:-SHOWN]
    changed = sorted(others[SHOWN:], key=lambda row: abs(row["rougeL_after"] - row["rougeL_before"]), reverse=True)
    demo = [row for row in both if row["part"] == "demo"]
    chosen = {"demo": demo, "best": best, "worst": others[:SHOWN], "most_changed": changed[:SHOWN]}
    return {kind: [{"chosen": kind.replace("_", " "), **row} for row in rows] for kind, rows in chosen.items()}


def _accounting(prepared: Mapping[str, Any]) -> dict[str, int]:
    """Return how many lines of the catalogue were read, dropped, kept and drawn, from `prepare_report.json`."""
    dropped = {f"dropped: {reason.replace('_', ' ')}": count for reason, count in prepared.get("dropped", {}).items()}
    names = {
        "duplicates": "equal rows, counted once",
        "long_titles": "not drawn: title fills max_seq_length",
        "train": "drawn to train on",
        "eval": "drawn as held out",
        "near_twins": "not held out: near twin trained on",
        "near_twins_kept": "held out with a near twin trained on",
    }
    drawn = {names[name]: count for name, count in prepared.get("selected", {}).items() if name in names}
    counts = {"lines read": prepared.get("read"), **dropped, "kept": prepared.get("kept"), **drawn}
    return {label: count for label, count in counts.items() if count is not None}
