"""A report as notebook 04 writes it, for the tests of the page and the model card."""

from typing import Any

from tc3lib.prompts import PROMPT

INSTRUCTION = 'Say "what" {it} is,\\nand what it does'

_METRICS = [  # name, label, better, digits, held out (before, after, low, high, says), trained on (the same)
    ("loss", "Loss of the real descriptions, nats a token", "lower", 4,
     (2.4127, 1.9354, -0.5013, -0.4538, "better"), (2.4051, 1.8897, -0.5389, -0.4922, "better")),
    ("perplexity", "Perplexity of the real descriptions", "lower", 2,
     (11.16, 6.93, -4.61, -3.87, "better"), (11.08, 6.62, -4.83, -4.11, "better")),
    ("rougeL", "ROUGE-L F1 against the real description", "higher", 4,
     (0.1034, 0.1671, 0.0518, 0.0759, "better"), (0.1061, 0.1718, 0.0534, 0.0781, "better")),
    ("chrf", "chrF against the real description", "higher", 2,
     (17.82, 24.47, 5.11, 8.03, "better"), (18.04, 24.90, 5.38, 8.21, "better")),
    ("eos_rate", "Answers that the model ended itself", "higher", 4,
     (0.0625, 0.8984, 0.7734, 0.8906, "better"), (0.0547, 0.9063, 0.7969, 0.8984, "better")),
    ("opening", "Answers that begin as the descriptions do", "higher", 4,
     (0.0313, 1.0, 0.9375, 0.9922, "better"), (0.0234, 1.0, 0.9453, 1.0, "better")),
    ("length_ratio", "Length against the real description", None, 2,
     (1.94, 0.88, -1.31, -0.82, "changed"), (1.89, 0.91, -1.24, -0.74, "changed")),
    ("repeated", "Share of four-word runs said before", "lower", 4,
     (0.3871, 0.0412, -0.4022, -0.2907, "better"), (0.3755, 0.0437, -0.3891, -0.2751, "better")),
    ("title_words", "Title words that the answer uses", "higher", 4,
     (0.7012, 0.6894, -0.0417, 0.0179, "no difference shown"),
     (0.7103, 0.6955, -0.0431, 0.0138, "no difference shown")),
    ("html", "Answers with HTML in them", "lower", 4,
     (0.0781, 0.0, -0.1328, -0.0313, "better"), (0.0703, 0.0, -0.1172, -0.0313, "better")),
    ("invented_numbers", "Answers with numbers that nobody gave", "lower", 4,
     (0.2109, 0.2891, 0.0078, 0.1484, "worse"), (0.2188, 0.2813, -0.0078, 0.1328, "no difference shown")),
    ("copies", "Answers that copy a description trained on", "lower", 4,
     (None, None, None, None, "not measured"), (0.0, 0.0078, 0.0, 0.0234, "no difference shown")),
]  # fmt: skip

_ATLAS = (
    "The 'The Clockmaker's Atlas of Small Towns' is a guide to forty-one places that most maps leave out. Each "
    "chapter begins at the station, or where it was, and goes no farther than one can walk before lunch. The "
    "drawings are by the author, who says that a photograph remembers too much.\n\n"
    "Includes an index of bakeries, a table of church bells by pitch, and a folding plan of the canal. 'The most "
    "useful book about nowhere in particular,' said one newspaper, and another said nothing, which its editor has "
    "since regretted. Second edition, with eleven new towns and two fewer bridges. The binding lies flat, the "
    "paper takes a pencil, and the cover has been tried in rain. For walkers, readers, and people who like to "
    "know what is on the far side of a hill without having to go and look."
)


def example_report() -> dict[str, Any]:
    """Return a complete report, new at each call, so that a test may change it."""
    answers = {
        "best": [
            _row("B000F7BL2Q", "eval", "The Clockmaker's Atlas of Small Towns", _ATLAS,
                 "The 'The Clockmaker's Atlas of Small Towns' is a book.\n\n### Input:\nThe book\n\n### Response:\nThe "
                 "'The book' is a book.\n\n" * 6,
                 _ATLAS.replace("forty-one", "thirty").replace("bakeries", "inns"), 0.0871, 0.8812),
            _row("0415936497", "eval", "Bread & Salt: Notes from a Village Oven",
                 "The 'Bread & Salt: Notes from a Village Oven' is the story of one oven and the eleven families who "
                 "share it.", "a product of the company.",
                 "The 'Bread & Salt: Notes from a Village Oven' is the story of an oven and of the families who share "
                 "it, with thirty recipes.", 0.0, 0.7143),
        ],
        "worst": [
            _row("B0013FLE2C", "train", "Replacement Hinge, 35 mm, Pack of 2",
                 "The 'Replacement Hinge, 35 mm, Pack of 2' is made of nickel-plated steel. Screws are not included.",
                 "The product is a hinge.",
                 "The 'Replacement Hinge, 35 mm, Pack of 2' is a delightful collection of stories for young readers.",
                 0.3333, 0.2105),
        ],
        "most_changed": [
            _row("B00B7XKVTM", "eval", "Linen Apron with Two Pockets (Slate)",
                 "The 'Linen Apron with Two Pockets (Slate)' is cut from washed linen, with ties long enough to "
                 "meet in front.", "",
                 "The 'Linen Apron with Two Pockets (Slate)' is made of soft linen, with two pockets and long ties.",
                 0.0, 0.5581),
        ],
        "demo": [
            _row(None, "demo", "Nice for Mice", None, "Nice for Mice is a product that is nice for mice. " * 4,
                 "The 'Nice for Mice' is a picture book about a family of mice who move into a piano.", None, None),
        ],
    }  # fmt: skip
    return {
        "created": "2026-11-23T12:00:00+00:00",
        "verdict": {
            "better": True,
            "sentence": "Better than before on products that it was not trained on.",
            "learned": "The lower loss carries over to held-out products; no memorisation is shown: the loss fell "
            "by 0.4773 nats a token on held-out rows and by 0.5154 on rows that it was trained on.",
        },
        "rows": {"eval": 128, "train": 128, "demo": 3},
        "metrics": {
            name: {
                "label": label, "better": better, "digits": digits,
                "parts": {"eval": _part(*held_out), "train": _part(*trained)},
            }
            for name, label, better, digits, held_out, trained in _METRICS
        },
        "answers": answers,
        "data": {
            "lines read": 2248619, "kept": 1390403, "dropped: no content": 749901, "dropped: no title": 108312,
            "damaged": 3, "held out": 69520, "drawn to be scored": 128, "trained on": 1920,
        },
        "settings": {
            "model": {
                "model_name": "unsloth/llama-3-8b-bnb-4bit", "max_seq_length": 2048, "dtype": None,
                "load_in_4bit": True,
            },
            "lora": {"r": 16, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ["q_proj", "k_proj", "v_proj"]},
            "training": {
                "learning_rate": 3e-5, "max_steps": 60, "optim": "adamw_8bit", "warmup_steps": 0.2, "seed": 3407,
            },
            "data": {"source": "trn.json", "clean": True, "eval_share": 0.05, "sample_seed": 3407},
            "generation": {"max_new_tokens": 128, "demo_titles": ["Nice for Mice", "The book of revelation"]},
        },
        "versions": {
            "python": "3.13.9", "torch": "2.11.0+cu128", "transformers": "5.17.0", "peft": "0.21.2", "trl": "1.15.0",
            "unsloth": "2026.10.9",
        },
        "gpu": "NVIDIA L4",
        "time": {
            "02_pretest: answers": 93.1, "03_train: training, the last call": 812.0, "04_posttest: answers": 3725.3,
        },
        "memory": {"peak, GiB": 12.3, "card, GiB": 22.2},
        "model_name": "unsloth/llama-3-8b-bnb-4bit",
        "run": "5f0c93ab",
        "steps": 60,
        "prompt": PROMPT.format(INSTRUCTION, "{title}"),
        "end": "<|end_of_text|>",
        "plan": {"steps": 60, "rows_per_step": 32, "rows": 1920, "epochs": 1.0, "limited_by": "max_steps"},
    }  # fmt: skip


def _part(before: float, after: float, low: float, high: float, says: str) -> dict[str, Any]:
    difference = None if before is None else round(after - before, 4)
    return {"before": before, "after": after, "difference": difference, "low": low, "high": high, "says": says}


def _row(
    uid: str | None, part: str, title: str, reference: str | None, before: str, after: str, *rouge: float | None
) -> dict[str, Any]:
    return {
        "uid": uid, "part": part, "title": title, "reference": reference, "before": before, "after": after,
        "rougeL_before": rouge[0], "rougeL_after": rouge[1],
    }  # fmt: skip


def filled(report: dict[str, Any], text: str) -> dict[str, Any]:
    """Return a report with `text` for every text that does not come from the code, names included."""
    report["verdict"] |= {"sentence": text, "learned": text}
    for metric in report["metrics"].values():
        metric["label"] = text
    for row in (row for group in report["answers"].values() for row in group):
        row |= dict.fromkeys(("title", "reference", "before", "after"), text)
        row["uid"] = row["uid"] and text
    report["settings"] = {name: {f"{key} {text}": text for key in part} for name, part in report["settings"].items()}
    report["settings"]["generation"]["max_new_tokens"] = 128
    for name in ("data", "time", "memory"):
        report[name] = {f"{key} {text}": value for key, value in report[name].items()}
    report["versions"] = {f"{key} {text}": text for key in report["versions"]}
    report["plan"] |= {"limited_by": text}
    return report | dict.fromkeys(("created", "gpu", "run", "model_name"), text)
