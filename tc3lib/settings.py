"""Every setting: its type, its meaning, and the recipe's value as its default. Presets change some of them.

Names are those of unsloth, PEFT, TRL and transformers. They are unique over all sections, so that
`settings.get("llama3_8b").change(max_steps=120)` needs no prefix.
"""

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tc3lib.errors import Tc3Error

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Arguments of `FastLanguageModel.from_pretrained`."""

    model_name: str = "unsloth/llama-3-8b-bnb-4bit"
    """A Hugging Face repository or a local folder."""
    max_seq_length: Count = 2048
    """Most tokens of a row; a longer one loses the end of its description."""
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
    optim: str = "adamw_8bit"
    """The optimiser, by transformers' name for it."""
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 0.01
    lr_scheduler_type: str = "linear"
    """How the learning rate falls after the warm-up."""
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
    report_to: str = "none"
    """The tracker that gets all losses, such as "wandb" or "tensorboard"; its package must be installed."""
    resume_from_checkpoint: bool = True
    """True: continue an interrupted run of the same settings. False: set it aside and start again."""


@dataclass(frozen=True, kw_only=True)
class SaveSettings:
    """When checkpoints are saved, besides TRL's settings."""

    save_minutes: Annotated[float, msgspec.Meta(gt=0)] | None = 15
    """Most minutes between two checkpoints. None: only the strategy's."""


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
class GenerationSettings:
    """How titles become texts. Decoding is greedy."""

    demo_titles: tuple[str, ...] = ("Nice for Mice", "On Happiness, U.S. Edition", "The book of revelation")
    """Titles whose answers are streamed before and after training."""
    max_new_tokens: Count = 128
    """Most tokens of an answer."""
    generation_batch_size: Count | None = None
    """Titles that are answered at once. None: as many as the memory holds; without a GPU 32."""


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
    generation: GenerationSettings = GenerationSettings()

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
                raise Tc3Error(f"there is no setting {name!r}. {nearest(name, known)}")
            sections.setdefault(known[name], {})[name] = value
        changed = {}
        for section, values in sections.items():
            old = getattr(self, section)
            try:
                changed[section] = msgspec.convert(dataclasses.asdict(old) | values, type(old))
            except (msgspec.ValidationError, UnicodeError) as error:
                raise Tc3Error(f"a setting does not fit: {error}".replace("`$.", "`")) from None
        return dataclasses.replace(self, **changed)


def rows_per_step(training: TrainingSettings) -> int:
    """Return the rows of one optimiser step (the effective batch), over all processes."""
    return training.per_device_train_batch_size * training.gradient_accumulation_steps


def rows_needed(training: TrainingSettings) -> int | None:
    """Return how many rows `max_steps` steps see at most; None if the run goes over all rows instead."""
    return training.max_steps * rows_per_step(training) if training.max_steps > 0 else None


def setting_names() -> dict[str, str]:
    """Return every setting's name with the section it is in."""
    sections = [field for field in dataclasses.fields(Settings) if dataclasses.is_dataclass(field.type)]
    return {field.name: section.name for section in sections for field in dataclasses.fields(section.type)}


def nearest(name: str, known: Any) -> str:
    """Return a sentence that names the spelling meant, or all that there are."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(sorted(known))}."


_PACKAGE = Path(__file__).resolve().parent
ROOT = _PACKAGE / "root" if (_PACKAGE / "root").is_dir() else _PACKAGE.parent
"""The checkout; where the library was installed as a wheel, the folder in it that holds what it needs of one."""
EMBEDDED = ROOT / "data"
"""The embedded base model and catalogue."""


def llama3_8b() -> Settings:
    """Return the recipe of the Tech Challenge: Llama-3-8B in 4 bit, for one L4 or A100."""
    return Settings()


def tiny() -> Settings:
    """Return the same run on the embedded model and catalogue: minutes on two CPU cores, no network."""
    config = llama3_8b().change(
        model_name=str(EMBEDDED / "base_model"),
        max_seq_length=768,
        fallback_source=str(EMBEDDED / "trn.json"),
        use_gradient_checkpointing=False,
        learning_rate=3e-3,
        gradient_accumulation_steps=1,
        max_steps=300,
        save_steps=100,
        eval_steps=50,
        eval_rows=160,
        eval_share=0.1,
        question_rows=60,
        max_new_tokens=512,
        generation_batch_size=80,
    )
    return dataclasses.replace(config, preset="tiny", requires_gpu=False)


_PRESETS = {function.__name__: function for function in (llama3_8b, tiny)}


def get(name: str) -> Settings:
    """Return the preset called `name`.

    Raises:
        Tc3Error: There is no such preset; the nearest one is named.
    """
    if name not in _PRESETS:
        raise Tc3Error(f"there is no preset {name!r} (TC3_PRESET). {nearest(name, _PRESETS)}")
    return _PRESETS[name]()
