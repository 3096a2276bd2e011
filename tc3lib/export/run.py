"""Make each format beside what was there, prove it, and only then put it in its place."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tc3lib.checkpoints import run_record
from tc3lib.errors import Tc3Error
from tc3lib.export import base_model, card, gguf, hub, ollama, verify
from tc3lib.files import alone, blaming, read_json, replacing_folder, write_json
from tc3lib.settings import Settings


def export(work: Path, config: Settings) -> dict[str, Any]:
    """Write the formats of `export_to` into `export/`, and what their proof found into `export.json`.

    A format whose answers differ more than its precision explains goes to `export/failed/`, and what was there before
    stays. Merged weights are written in any case: the others are made of them. The Hub has its own call, `hub.upload`.

    Returns:
        What `export.json` holds: `run`, `adapter_sha256`, `base`, the figures of the `adapter`, and `in_4bit` those of
        the model as trained; by format in `formats` those of `verify.judge`.

    Raises:
        Tc3Error: Something is missing (reported before anything is written), or the merged weights failed.
    """
    from tc3lib.export.merge import merge  # only now: vLLM's environment, which asks what was proved, has no PEFT

    config = run_record.as_trained(config, work)
    wanted = config.exporting.export_to
    if "hub" in wanted:
        hub.check(config)
    script = gguf.converter(config) if "gguf" in wanted else None
    run_record.check_adapter(work)
    asked = verify.questions(work, config)
    name = base_model.name(config)
    base, folder = base_model.fetch(name), work / "export"
    size = base_model.weight_bytes(base)
    shares = [1.0, *(gguf.SIZES[kind] for kind in {"f16", *config.exporting.gguf_types} if script)]
    base_model.check_disk(work, sum(shares) * size, "the export")
    base_model.check_memory(1.2 * size, "merging")
    with alone(work), blaming(folder):
        folder.mkdir(exist_ok=True)
        shutil.rmtree(folder / "failed", ignore_errors=True)
        print(f"asking the adapter {len(asked['questions'])} held-out questions")
        reference = verify.ask("adapter", base, asked, work / "lora_model")
        record = {
            "run": read_json(work / "run.json").get("run"),
            "adapter_sha256": verify.adapter_digest(work),
            "base": name,
            "adapter": verify.summary(reference, asked),
            "in_4bit": verify.in_4bit(work, asked) if config.model.load_in_4bit else None,
            "formats": {},
        }
        if wrong := verify.doubts(record):
            raise Tc3Error(
                f"the adapter on {name} does not answer as it did after training: {wrong}. Set export_base to its base "
                "model in 16 bit."
            )
        old = read_json(work / "export.json")
        if all(old.get(key) == record[key] for key in ("adapter_sha256", "base")):
            record["formats"] |= {kind: old["formats"][kind] for kind in verify.proved(old)}  # if not made again
        else:
            new = {gguf.file_name(kind) for kind in config.exporting.gguf_types} if script else set()
            left = [f"gguf/{path.name}" for path in (folder / "gguf").glob("*.gguf") if path.name not in new]
            if "ollama" not in wanted:
                left += [name for name in ("Modelfile", "Modelfile.adapter", "adapter") if (folder / name).exists()]
            if left:
                print(f"out of date, from an earlier adapter or base model: {', '.join(sorted(left))} in {folder}")
        try:
            with replacing_folder(folder / "merged") as new:
                print(f"merging the adapter into {name}" + (" (dequantised)" if base_model.is_4bit(base) else ""))
                merge(work / "lora_model", base, new, config.prompting)
                if not _prove("merged", "merged", new, reference, asked, record, folder):
                    raise Tc3Error(f"the merged weights failed, and nothing was made of them: {_reasons(record)}")
            if script:
                _write_gguf(script, config, folder, base, reference, asked, record)
            if "ollama" in wanted:
                ollama.write(work, config, name, verify.proved(record))
        finally:
            write_json(work / "export.json", record)
            card.write(work, config, record)
    if _reasons(record):
        print(f"failed, and moved to {folder / 'failed'}: {_reasons(record)}")
    return record


def _write_gguf(
    script: Path, config: Settings, folder: Path, base: Path, reference: Mapping, asked: Mapping, record: dict[str, Any]
) -> None:
    kinds, target = config.exporting.gguf_types, folder / "gguf"
    with replacing_folder(folder / ".gguf") as new:
        files = {kind: new / gguf.file_name(kind) for kind in ("f16", *kinds)}
        print("converting to GGUF")
        gguf.convert(script, folder / "merged", base, files["f16"])
        for kind in kinds:
            if kind != "f16":
                gguf.quantise(files["f16"], files[kind], kind)
        target.mkdir(exist_ok=True)
        for kind in kinds:
            if _prove(kind, "gguf", files[kind], reference, asked, record, folder):
                files[kind].replace(target / files[kind].name)
    shutil.rmtree(folder / ".gguf")


def _prove(
    name: str, kind: str, path: Path, reference: Mapping, asked: Mapping, record: dict[str, Any], folder: Path
) -> bool:
    """Ask an artefact, note what came of it, move it aside if it failed, and return whether it is proved."""
    print(f"asking {name} the same")
    try:
        found = verify.judge(name, verify.ask(kind, path, asked), reference, asked)
    except Tc3Error as error:
        found = {"failed": [str(error)]}
    record["formats"][name] = found
    if found["failed"]:
        (folder / "failed").mkdir(exist_ok=True)
        path.rename(folder / "failed" / path.name.removeprefix(".").removesuffix(".new"))
    return not found["failed"]


def _reasons(record: Mapping[str, Any]) -> str:
    failed = {name: found["failed"] for name, found in record["formats"].items() if found["failed"]}
    return "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in failed.items())
