"""`python -m tc3lib.export WORK --to merged,gguf,ollama,hub`: what notebook 05 does."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tc3lib.errors import Tc3Error, show_alone
from tc3lib.runtime import workspace


def main(arguments: Sequence[str] | None = None) -> None:
    """Export the adapter of a work folder, and prove each format by asking it held-out questions."""
    parser = argparse.ArgumentParser(prog="python -m tc3lib.export", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="the work folder with lora_model/")
    parser.add_argument("--to", help="export_to: some of merged,gguf,ollama,hub, separated by commas")
    parser.add_argument("--gguf", help="gguf_types: some of f16,q8_0,q4_k_m")
    parser.add_argument("--base", help="export_base: the base model in 16 bit, a folder or a repository")
    parser.add_argument("--llama-cpp", help="llama_cpp: a checkout of llama.cpp")
    parser.add_argument("--hub", help="hub_repo: the repository on the Hub, owner/name")
    parser.add_argument("--public", action="store_true", help="hub_private=False: everybody may see it")
    options = parser.parse_args(arguments)
    show_alone()
    if not (options.folder / "lora_model").is_dir():
        raise Tc3Error(f"no lora_model in {options.folder}: run 03_train first, or give the work folder that has it.")
    config, work = workspace.reopen(options.folder)
    given = {
        "export_to": options.to and tuple(options.to.split(",")),
        "gguf_types": options.gguf and tuple(options.gguf.split(",")),
        "export_base": options.base,
        "llama_cpp": options.llama_cpp,
        "hub_repo": options.hub,
    }
    config = config.change(**{name: value for name, value in given.items() if value})
    if options.gguf and "gguf" not in config.exporting.export_to:
        raise Tc3Error("--gguf says in which precisions, but gguf is not among the formats: add it to --to.")
    if options.public:
        config = config.change(hub_private=False)
    from tc3lib import export  # only now: importing torch takes seconds

    record = export.export(work, config)
    for row in export.rows(record):
        print(*(f"{name} {value}" for name, value in row.items() if value), sep=", ")
    export.upload(work, config)
    if any(found["failed"] for found in record["formats"].values()):
        raise Tc3Error(f"not every format is proved: {work / 'export.json'} has the figures.")
    workspace.finish(work)


if __name__ == "__main__":
    main()
