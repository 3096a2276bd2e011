"""Every setting: its type, its meaning, and the recipe's value as its default. Presets change some of them.

Names are those of unsloth, PEFT, TRL and transformers. They are unique over all sections, so that
`settings.get("llama3_8b").change(max_steps=120)` needs no prefix.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from tc3lib.errors import Tc3Error

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

# What the pinned transformers knows: importing it takes seconds, and a wrong value is reported where it is typed.
# Left out are those that this library cannot train with: galore and apollo need optim_target_modules, lomo and adalomo
# the learning rate in backward(), and schedule_free ones optimizer.eval() before each evaluation and save.
Optimiser = Literal[
    "adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adafactor", "adamw_anyprecision",
    "adamw_torch_4bit", "adamw_torch_8bit", "ademamix", "sgd", "adagrad", "adamw_bnb_8bit", "adamw_8bit",
    "ademamix_8bit", "lion_8bit", "lion_32bit", "paged_adamw_32bit", "paged_adamw_8bit", "paged_ademamix_32bit",
    "paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit", "grokadamw", "stable_adamw",
]  # fmt: skip
Scheduler = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy",
]  # fmt: skip
SCHEDULER_KWARGS = {
    "cosine": {"num_cycles"},
    "cosine_with_restarts": {"num_cycles"},
    "polynomial": {"lr_end", "power"},
    "inverse_sqrt": {"timescale"},
    "reduce_lr_on_plateau": {
        "mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps",
    },
    "cosine_with_min_lr": {"num_cycles", "min_lr", "min_lr_rate"},
    "cosine_warmup_with_min_lr": {"num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"},
    "warmup_stable_decay": {
        "num_decay_steps", "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles",
    },
    "greedy": {
        "mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "warmup", "min_lr", "max_lr", "eps",
        "verbose", "smooth", "window_size", "reset_start",
    },
}  # fmt: skip
"""What `lr_scheduler_kwargs` may name, by scheduler; the others take none."""
NEEDED_KWARGS = {
    "cosine_with_min_lr": {"min_lr", "min_lr_rate"},
    "cosine_warmup_with_min_lr": {"min_lr", "min_lr_rate"},
    "warmup_stable_decay": {"num_decay_steps"},
}
"""One of these must be among them."""
Tracker = Literal[
    "none", "all", "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "kubeflow",
    "mlflow", "neptune", "swanlab", "tensorboard", "trackio", "wandb",
]  # fmt: skip

_OTHER_NAMES = {
    "model_name": "model model_id base_model model_name_or_path pretrained_model_name_or_path",
    "max_seq_length": "max_length max_len max_seq_len seq_length sequence_length context_length cutoff_len",
    "dtype": "torch_dtype bf16 fp16 precision",
    "load_in_4bit": "load_in_8bit quantization quantize 4bit",
    "r": "rank lora_r lora_rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "lora_target_modules lora_target target_layers",
    "use_gradient_checkpointing": "gradient_checkpointing",
    "per_device_train_batch_size": "batch_size train_batch_size per_device_batch_size micro_batch_size bs",
    "gradient_accumulation_steps": "gradient_accumulation grad_accum grad_accumulation_steps accumulation_steps",
    "warmup_steps": "warmup_ratio warmup",
    "learning_rate": "lr",
    "max_steps": "steps train_steps num_steps num_train_steps",
    "num_train_epochs": "epochs epoch num_epochs n_epochs train_epochs",
    "optim": "optimizer optimiser",
    "lr_scheduler_type": "scheduler lr_scheduler scheduler_type",
    "lr_scheduler_kwargs": "scheduler_kwargs",
    "per_device_eval_batch_size": "eval_batch_size",
    "report_to": "tracker trackers log_to logger wandb",
    "resume_from_checkpoint": "resume",
    "source": "data dataset dataset_path data_path data_file file filename path input_file train_file catalogue",
    "title_column": "title title_key title_field",
    "content_column": "content content_key content_field description description_column",
    "uid_column": "uid id id_column uid_key",
    "workers": "num_workers num_proc",
    "train_rows": "max_train_samples num_train_samples train_size num_rows n_rows max_rows limit",
    "eval_rows": "max_eval_samples num_eval_samples",
    "eval_share": "test_size val_size eval_size eval_split val_split validation_split test_split",
    "instruction": "system_prompt task",
    "response": "output response_template completion",
    "prompt": "template prompt_template prompt_format chat_template",
    "demo_titles": "titles",
    "max_new_tokens": "max_tokens max_output_tokens num_predict",
    "generation_batch_size": "answer_batch_size",
}
_SETTING = {other: name for name, others in _OTHER_NAMES.items() for other in others.split()}
_NO_SETTING = {
    **dict.fromkeys(
        ["temperature", "top_p", "top_k", "min_p", "do_sample", "num_beams", "repetition_penalty"],
        "Decoding is greedy, so that the answers before and after training can be compared.",
    ),
    "packing": "plan='auto' puts the rows of a step into one line without padding; plan='recipe' does not.",
    "preset": "Choose it in the first cell of 01_prepare, or by the environment variable TC3_PRESET.",
}
"""What people look for that has no counterpart here, and why."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Arguments of `FastLanguageModel.from_pretrained`."""

    model_name: str = "unsloth/llama-3-8b-bnb-4bit"
    """A Hugging Face repository or a local folder."""
    max_seq_length: Count = 2048
    """Maximum tokens of a row; a longer one loses the end of its description."""
    dtype: Literal["float16", "bfloat16", "float32"] | None = None
    """None: bfloat16 where the hardware has it, else float16."""
    load_in_4bit: bool = True
    """Quantise the base model to 4 bit (QLoRA)."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Arguments of `FastLanguageModel.get_peft_model`."""

    r: Count = 16
    """Rank of the adapter's matrices."""
    lora_alpha: Count = 16
    """The adapter's output is scaled by `lora_alpha / r`."""
    lora_dropout: Share = 0.0
    """Above 0 the shared prefix is computed in every row, which takes longer."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained too."""
    target_modules: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    """The layers that get an adapter."""
    use_gradient_checkpointing: bool | Literal["unsloth"] = "unsloth"
    """Compute activations twice to save memory. Used with plan="recipe"; plan="auto" chooses itself."""
    random_state: int = 3407
    """Seed of the adapter's initial values, which `seed` does not cover."""
    use_rslora: bool = False
    """Scale by `lora_alpha / sqrt(r)` instead."""
    loftq_config: dict[str, Any] | None = None
    """Initialise the adapter by LoftQ."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Arguments of `trl.SFTConfig`."""

    per_device_train_batch_size: Count = 8
    gradient_accumulation_steps: Count = 4
    """A step has `per_device_train_batch_size * gradient_accumulation_steps` rows, over all processes."""
    warmup_steps: Annotated[float, msgspec.Meta(ge=0)] = 0.2
    """Below 1 a share of all steps (`warmup_ratio` in transformers 4), else a number of steps."""
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 3e-5
    """The highest, at the end of the warm-up."""
    max_steps: Annotated[int, msgspec.Meta(ge=-1)] = 60
    """Optimiser steps; if positive, it overrides `num_train_epochs`. -1: train for whole epochs."""
    num_train_epochs: Annotated[float, msgspec.Meta(gt=0)] = 4
    """Passes over the training rows, if `max_steps` is -1."""
    logging_steps: Count = 1
    """Steps between two logged losses."""
    optim: Optimiser = "adamw_8bit"
    """The optimiser, by transformers' name for it."""
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 0.01
    lr_scheduler_type: Scheduler = "linear"
    """How the learning rate falls after the warm-up."""
    lr_scheduler_kwargs: dict[str, Any] | None = None
    """What else the scheduler takes, such as `{"min_lr_rate": 0.1}` with "cosine_with_min_lr"."""
    seed: Annotated[int, msgspec.Meta(ge=0)] = 3407
    """Seed of the order of the rows and of dropout."""
    output_dir: Annotated[str, msgspec.Meta(pattern=r"^\w[\w.-]*$")] = "outputs"
    """The checkpoints' folder in the work folder."""
    save_strategy: Literal["no", "steps", "epoch"] = "steps"
    save_steps: Count = 10
    """Steps between two checkpoints; `save_minutes` may add some."""
    save_total_limit: Count | None = 3
    """Newest checkpoints to keep, besides the one with the lowest held-out loss. None: all."""
    eval_strategy: Literal["no", "steps", "epoch"] = "steps"
    """When the held-out loss is measured; the original notebook plots one that it never measured."""
    eval_steps: Count = 10
    eval_on_start: bool = True
    per_device_eval_batch_size: Count = 8
    """With plan="recipe", and for the losses of the tests before and after; else as in training."""
    padding_free: bool | None = None
    """With plan="recipe": rows in one line instead of padded. None: as unsloth decides, which on a GPU is yes."""
    report_to: Tracker | list[Tracker] = "none"
    """The tracker, or several, that get all losses, such as "wandb"; their packages must be installed."""
    resume_from_checkpoint: bool = True
    """True: continue an interrupted run of the same settings. False, which is not kept in `settings.json`: set it aside
    and start again."""

    def __post_init__(self):
        name = self.output_dir
        if name in ("lora_model", "export") or name.endswith((".json", ".jsonl", ".png", ".html")):
            raise ValueError(f"output_dir is {name!r}, which the notebooks write: choose another name")


@dataclass(frozen=True, kw_only=True)
class SaveSettings:
    """When checkpoints are saved, besides TRL's settings."""

    save_minutes: Annotated[float, msgspec.Meta(gt=0)] | None = 15
    """Maximum minutes between two checkpoints. None: only the strategy's."""


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """How a step's rows pass through the card; the rows of a step, and their mathematics, are the same either way."""

    plan: Literal["auto", "recipe"] = "auto"
    """auto: no padding, micro-batches and checkpointing chosen for the free memory. recipe: TRL's own trainer with
    `per_device_train_batch_size`, `gradient_accumulation_steps` and `use_gradient_checkpointing` as set."""
    memory_gib: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Plan for a card of this size in GiB. None: what is free."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which rows a run sees."""

    source: str = "trn.json"
    """The catalogue: a name in the work folder, or a path. It is also found with `.gz` or `.zip` added."""
    fallback_source: str | None = None
    """What is read if the work folder has no `trn.json` and `source` is not changed."""
    title_column: Annotated[str, msgspec.Meta(min_length=1)] = "title"
    """Where the title is: a key of JSON, or a column of CSV, Excel or Parquet."""
    content_column: Annotated[str, msgspec.Meta(min_length=1)] = "content"
    """Where the content is."""
    uid_column: Annotated[str, msgspec.Meta(min_length=1)] = "uid"
    """Where the uid is, if the catalogue has one."""
    header_row: Count | None = None
    """Line of a CSV file, or row of Excel, that the header is in. None: the first that has the columns."""
    clean: bool = True
    """Turn HTML into text, normalise white space, remove glued edition notes. False: only strip both ends."""
    fix_encoding: bool = False
    """Repair text whose bytes were read in a wrong encoding (`CafÃ©`), as ftfy does. 01 counts it."""
    drop_placeholders: bool = False
    """Drop rows whose title or content is a placeholder (`N/A`, `NULL`, `-`). 01 counts them."""
    max_damaged: Share = 0.01
    """Stop if more than this share of the lines is damaged; these are skipped and listed in `quarantine.jsonl`."""
    workers: Count | None = None
    """Processes that read a plain JSON Lines catalogue. None: one per core, 4 at most, from 64 MiB on, else one."""
    train_rows: Count | None = None
    """Rows to train on. None: as many as the planned steps use."""
    eval_rows: Count = 128
    """Held-out rows: scored before and after training, their loss logged while training."""
    eval_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    """Share of all descriptions that are never trained on; `eval_rows` are drawn from them."""
    question_rows: Count = 128
    """Held-out rows, and as many rows of the training set, that are asked before and after training."""
    sample_seed: int = 3407
    """Seed of which rows are drawn, and of which are held out."""


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """What the model is asked and how an answer is built, the same in training and in all tests."""

    instruction: str = "Describe the product [input]"
    """What the model is to do with the title."""
    response: str = "The '{title}' is {content}"
    """The answer that it learns. "{content}" alone: no opening."""
    prompt: Literal["alpaca", "chat"] = "alpaca"
    """alpaca: the recipe's text, which suits any model. chat: a user's turn of instruction and title in the tokenizer's
    own chat template, for instruct models."""

    def __post_init__(self):
        if "{title}" in self.instruction:
            raise ValueError(f"instruction is {self.instruction!r}; the title follows it, {{title}} has no place in it")
        braces = re.findall(r"{\w*}|[{}]", self.response)
        if braces.count("{content}") != 1 or not {"{title}", "{content}"}.issuperset(braces):
            raise ValueError(f"response is {self.response!r}; expected {{content}} once and no braces but {{title}}")


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How titles become texts. Decoding is greedy."""

    demo_titles: tuple[str, ...] = ("Nice for Mice", "On Happiness, U.S. Edition", "The book of revelation")
    """Titles whose answers are streamed before and after training."""
    max_new_tokens: Count = 128
    """Maximum tokens of an answer."""
    generation_batch_size: Count | None = None
    """Titles that are answered at once. None: as many as the memory holds; without a GPU 32."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What leaves the work folder, and how."""

    export_to: tuple[Literal["merged", "gguf", "ollama", "hub"], ...] = ("merged", "ollama")
    """merged: base model and adapter in one, in 16 bit. ollama: Modelfiles. gguf: files for llama.cpp, which need
    llama-cpp-python. hub: to `hub_repo`. All are made of the merged weights, which are written in any case."""
    export_base: str | None = None
    """The base model in 16 bit, a folder or a repository. None: `model_name`, without `-bnb-4bit` if it ends so."""
    gguf_types: tuple[Literal["f16", "q8_0", "q4_k_m"], ...] = ("f16", "q8_0", "q4_k_m")
    """The precisions of the GGUF files."""
    llama_cpp: str | None = None
    """A checkout of llama.cpp, whose converter is used. None: unsloth's, else the one that llama-cpp-python carries."""
    hub_repo: str | None = None
    """The repository on the Hub, such as "me/tc3-describe"."""
    hub_private: bool = True
    """Whether only its owner sees it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A whole run."""

    preset: str = "llama3_8b"
    requires_gpu: bool = True
    model: ModelSettings = ModelSettings()
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    saving: SaveSettings = SaveSettings()
    planning: PlanSettings = PlanSettings()
    data: DataSettings = DataSettings()
    prompting: PromptSettings = PromptSettings()
    generation: GenerationSettings = GenerationSettings()
    exporting: ExportSettings = ExportSettings()

    def change(self, **settings: Any) -> "Settings":
        """Return a copy with some settings changed, whatever section they are in.

        Args:
            **settings: New values by setting name, for example `max_steps=120, lora_alpha=32`.

        Raises:
            Tc3Error: No setting has that name (the nearest one is named), or the value does not fit the setting.
        """
        known = setting_names()
        sections: dict[str, dict[str, Any]] = {}
        for name, value in settings.items():
            if name not in known:
                raise Tc3Error(f"there is no setting {name!r}. {_instead(name, known)}")
            sections.setdefault(known[name], {})[name] = value
        changed = {}
        for section, values in sections.items():
            old = getattr(self, section)
            try:
                changed[section] = msgspec.convert(dataclasses.asdict(old) | values, type(old))
            except (msgspec.ValidationError, UnicodeError) as error:
                raise Tc3Error(f"a setting does not fit: {_explain(error, type(old), values)}") from None
        config = dataclasses.replace(self, **changed)
        _check_scheduler(config.training)
        return config

    def flat(self) -> dict[str, Any]:
        """Return every setting's value by its name."""
        return {name: getattr(getattr(self, section), name) for name, section in setting_names().items()}

    def changes(self) -> dict[str, Any]:
        """Return the settings that differ from those of the preset."""
        preset = get(self.preset).flat()
        return {name: value for name, value in self.flat().items() if value != preset[name]}


def rows_per_step(training: TrainingSettings) -> int:
    """Return the rows of one optimiser step (the effective batch), over all processes."""
    return training.per_device_train_batch_size * training.gradient_accumulation_steps


def rows_needed(training: TrainingSettings) -> int | None:
    """Return how many rows `max_steps` steps see at most; None if the run goes over all rows instead."""
    return training.max_steps * rows_per_step(training) if training.max_steps > 0 else None


def used_by_01(config: Settings) -> dict[str, Any]:
    """Return the settings that decide which rows notebook 01 writes, as JSON has them.

    `train_rows` is how many it draws, by that setting or by `max_steps`; None: all.
    """
    used = vars(config.data) | {
        "instruction": config.prompting.instruction,
        "response": config.prompting.response,
        "train_rows": config.data.train_rows or rows_needed(config.training),
        "demo_titles": config.generation.demo_titles,
    }
    free = ("workers", "max_damaged", "fallback_source")  # none decides which rows, or is the preset's own path
    return msgspec.json.decode(msgspec.json.encode({name: used[name] for name in used if name not in free}))


def setting_names() -> dict[str, str]:
    """Return every setting's name with the section it is in."""
    sections = [field for field in dataclasses.fields(Settings) if dataclasses.is_dataclass(field.type)]
    return {field.name: section.name for section in sections for field in dataclasses.fields(section.type)}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the spelling meant, or all that there are."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(sorted({*known}))}."


def _instead(name: str, known: dict[str, str]) -> str:
    """Return a sentence that leads from the name of something else to the setting."""
    usual = name.lower().replace("-", "_")
    if usual in _NO_SETTING:
        return _NO_SETTING[usual]
    setting = usual if usual in known else _SETTING.get(usual)
    if setting == "warmup_steps":
        return "It is 'warmup_steps' here: below 1 a share of all steps."
    return f"It is {setting!r} here." if setting else nearest(name, known)


def _explain(error: Exception, section: type, values: dict[str, Any]) -> str:
    """Return msgspec's reason, and for a word that is not among those of its setting the nearest one or all."""
    text = str(error).replace("`$.", "`")
    found = re.fullmatch(r"Invalid enum value '(.*)' - at `(\w+).*`", text, re.S)
    if not found:
        return text
    value, name = found.groups()
    (kind,) = (field.type for field in dataclasses.fields(section) if field.name == name)
    return f"{name} has no {value!r}. {nearest(value, [word for word in _words(kind) if isinstance(word, str)])}"


def _words(kind: Any) -> Iterator[Any]:
    """Yield the words of every Literal in a type."""
    for part in get_args(kind):
        yield from _words(part) if get_args(part) else [part]


def _check_scheduler(training: TrainingSettings) -> None:
    kind, given = training.lr_scheduler_type, training.lr_scheduler_kwargs or {}
    known, needed = SCHEDULER_KWARGS.get(kind, set()), NEEDED_KWARGS.get(kind, set())
    for name in given:
        if name not in known:
            other = nearest(name, known) if known else "It takes none: set lr_scheduler_kwargs=None."
            raise Tc3Error(f"lr_scheduler_kwargs: the scheduler {kind!r} has no {name!r}. {other}")
    if needed and needed.isdisjoint(given):
        words = " or ".join(sorted(needed))
        raise Tc3Error(f"lr_scheduler_kwargs: the scheduler {kind!r} needs {words}, such as {{{min(needed)!r}: ...}}.")
    if kind in ("reduce_lr_on_plateau", "greedy") and training.eval_strategy == "no":
        raise Tc3Error(f"lr_scheduler_type={kind!r} follows the held-out loss: eval_strategy cannot be 'no'.")


_PACKAGE = Path(__file__).resolve().parent
ROOT = _PACKAGE / "root" if (_PACKAGE / "root").is_dir() else _PACKAGE.parent
"""The checkout; where the library was installed as a wheel, the folder in it that holds what it needs of one."""
EMBEDDED = ROOT / "data"
"""The embedded base model and catalogue."""


def runs() -> Path:
    """Return the folder of all runs: in the checkout, or in the current folder if the library came without one."""
    return (ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()) / "runs"


def get(name: str) -> Settings:
    """Return the preset called `name` (`tc3lib.presets`).

    Raises:
        Tc3Error: There is no such preset; the nearest one is named.
    """
    from tc3lib.presets import PRESETS  # which are made of what is above

    if not isinstance(name, str) or name not in PRESETS:
        raise Tc3Error(f"there is no preset {name!r}. {nearest(str(name), PRESETS)}")
    return PRESETS[name]()
