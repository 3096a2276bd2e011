"""Measure how fast a catalogue is described by the built-in engine and by vLLM, each in an environment of its own.

    python benchmarks/describe.py make FOLDER [--family llama|smollm2]
    python benchmarks/describe.py run FOLDER/adapter BUILTIN.json --engine builtin [--in-4bit] [--titles 512]
    python benchmarks/describe.py run FOLDER/merged MERGED.json --engine vllm [--titles 512 20000]
    python benchmarks/describe.py run FOLDER/adapter ADAPTER.json --engine vllm [--titles 512 20000]
    python benchmarks/describe.py compare BUILTIN.json MERGED.json ADAPTER.json

`make` needs PEFT: it writes a base model with random weights in bf16, of Llama-3-8B's shape (three times 16 GB of disk
at most) or of SmolLM2-135M's, and two work folders: one with an adapter, one with its merged weights as notebook 05
leaves them. `run` loads a work folder as `python -m tc3lib.describe` does, answers a few titles, which is not counted,
and then the first so many titles; random weights never end an answer, so each has `--tokens` tokens. `compare` prints a
table, and the share of answers that begin with the first file's 16 tokens: with random weights in bf16 they soon part.
"""

import argparse
import json
import shutil
import subprocess
import time
from pathlib import Path

from model import ensure_model

COMPARED = 16
WARM_UP = 64


def make(folder: Path, family: str) -> None:
    """Write `base`, and the work folders `adapter` and `merged`."""
    folder = folder.resolve()
    base, adapter, merged = folder / "base", folder / "adapter", folder / "merged"
    folder.mkdir(parents=True, exist_ok=True)
    ensure_model(base, "--bf16", "--family", family)
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from tc3lib.files import write_json
    from tc3lib.prompts import load_tokenizer, save_tokenizer
    from tc3lib.settings import LoraSettings

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, device_map=device)
    wanted = LoraSettings()
    lora = peft.LoraConfig(
        r=wanted.r, lora_alpha=wanted.lora_alpha, target_modules=list(wanted.target_modules), task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(model, lora)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # 0 at first, which would be no adapter
            torch.nn.init.normal_(weight, std=0.01)
    model.save_pretrained(adapter / "lora_model")
    save_tokenizer(load_tokenizer(str(base)), adapter / "lora_model")
    shutil.copytree(adapter / "lora_model", merged / "lora_model", dirs_exist_ok=True)
    model.merge_and_unload().save_pretrained(merged / "export" / "merged")
    save_tokenizer(load_tokenizer(str(base)), merged / "export" / "merged")
    from tc3lib.export import verify

    proved = {"adapter_sha256": verify.adapter_digest(merged), "formats": {"merged": {"failed": []}}}
    write_json(merged / "export.json", proved)
    for work in (adapter, merged):
        settings = {"preset": "llama3_8b", "model_name": str(base), "load_in_4bit": False}
        write_json(work / "settings.json", settings)


def run(arguments: argparse.Namespace) -> None:
    """Load a work folder's model, answer, and write the times and the beginnings of the answers."""
    from train import text_rows

    from tc3lib import describe
    from tc3lib.runtime import kept_settings

    config = kept_settings.load(arguments.work, "llama3_8b")
    config = config.change(max_new_tokens=arguments.tokens, load_in_4bit=arguments.in_4bit)
    titles = [row["input_text"] for row in text_rows(max(*arguments.titles, WARM_UP))]
    if arguments.at_once:
        from tc3lib.evaluation import vllm_engine

        vllm_engine.WITH_ADAPTER = arguments.at_once
    found, start = {"name": name(arguments), "counts": []}, time.monotonic()
    with describe.opened_engine(arguments.engine, arguments.work, config, titles, arguments.gpu_memory) as generate:
        found["load"] = time.monotonic() - start
        generate(titles[:WARM_UP], None)
        for count in arguments.titles:
            start = time.monotonic()
            answers = generate(titles[:count], None)
            seconds, tokens = time.monotonic() - start, sum(answer.tokens for answer in answers)
            found["counts"].append({"titles": count, "seconds": seconds, "tokens": tokens})
            found["answers"] = [answer.ids[:COMPARED] for answer in answers]
            print(found["name"], found["counts"][-1], f"{tokens / seconds:,.0f} tokens/s", flush=True)
            arguments.output.write_text(json.dumps(found))  # after each: a command may be cut off


def name(arguments: argparse.Namespace) -> str:
    """Return what ran, and on which card."""
    import torch  # which does not touch a card to count them, as to name them would

    command, cards = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], torch.cuda.device_count()
    card = "CPU"
    if cards:
        card = f"{cards} x {subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]}"
    bits = ", 4 bit" if arguments.in_4bit else ""
    return f"{arguments.engine}, {arguments.work.resolve().parent.name}/{arguments.work.name}{bits}, {card}"


def compare(paths: list[Path]) -> None:
    """Print the runs as a table, each beside the first."""
    runs = [json.loads(path.read_bytes()) for path in paths]
    first = {count["titles"]: count["tokens"] / count["seconds"] for count in runs[0]["counts"]}
    print("| engine, weights, card | loading, s | titles | s | tokens/s | times | equal in 16 tokens |")
    print("| --- " + "| ---: " * 6 + "|")
    for found in runs:
        pairs = list(zip(runs[0]["answers"], found["answers"], strict=False))
        equal = sum(a == b for a, b in pairs) / len(pairs)
        for count in found["counts"]:
            seconds, speed = count["seconds"], count["tokens"] / count["seconds"]
            times = speed / first.get(count["titles"], max(first.values()))
            print(
                f"| {found['name']} | {found['load']:.0f} | {count['titles']:,} | {seconds:.1f} | {speed:,.0f} "
                f"| {times:.1f} | {equal:.0%} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("make")
    one.add_argument("folder", type=Path)
    one.add_argument("--family", default="llama", choices=["llama", "smollm2"])
    one = commands.add_parser("run")
    one.add_argument("work", type=Path)
    one.add_argument("output", type=Path)
    one.add_argument("--engine", required=True, choices=["builtin", "vllm"])
    one.add_argument("--titles", type=int, nargs="+", default=[512])
    one.add_argument("--tokens", type=int, default=128, help="new tokens of each")
    one.add_argument("--in-4bit", action="store_true", help="built-in: quantise the base model as it is loaded")
    one.add_argument("--gpu-memory", type=float, help="vLLM: share of the card's memory")
    one.add_argument("--at-once", type=int, help="vLLM with an adapter: most titles that a card has at once")
    one = commands.add_parser("compare")
    one.add_argument("paths", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.folder, arguments.family)
    elif arguments.command == "run":
        run(arguments)
    else:
        compare(arguments.paths)


if __name__ == "__main__":
    main()
