"""What a run is: frozen dataclasses, named as unsloth, PEFT, TRL and transformers name the same things.

The values live in `presets.py`. Sections exist so that a function takes only the part that it needs; the names of
the settings are unique over all sections, so that `Config.change(max_steps=120)` needs no prefix.
"""

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from tc3lib.errors import Tc3Error

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Arguments of `FastLanguageModel.from_pretrained`."""

    model_name: str
    """A Hugging Face repository or a local folder."""
    max_seq_length: Count
    """Tokens a row may have; a longer one loses the end of its description."""
    dtype: Literal["float16", "bfloat16", "float32"] | None
    """None: bfloat16 where the hardware has it, else float16."""
    load_in_4bit: bool


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Arguments of `FastLanguageModel.get_peft_model`."""

    r: Count
    lora_alpha: Count
    lora_dropout: Share
    bias: Literal["none", "all", "lora_only"]
    target_modules: tuple[str, ...]
    use_gradient_checkpointing: bool | Literal["unsloth"]
    random_state: int
    """Seed of the adapter's first values; `seed` does not cover them."""
    use_rslora: bool
    loftq_config: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Arguments of `trl.SFTConfig`."""

    per_device_train_batch_size: Count
    gradient_accumulation_steps: Count
    warmup_steps: Annotated[float, msgspec.Meta(ge=0)]
    """Below 1 a share of all steps (transformers 4 called that `warmup_ratio`), else a number of steps."""
    learning_rate: Annotated[float, msgspec.Meta(gt=0)]
    max_steps: Annotated[int, msgspec.Meta(ge=-1)]
    """Optimiser steps; when positive it wins over `num_train_epochs`. -1: train for whole epochs."""
    num_train_epochs: Annotated[float, msgspec.Meta(gt=0)]
    logging_steps: Count
    optim: str
    weight_decay: Annotated[float, msgspec.Meta(ge=0)]
    lr_scheduler_type: str
    seed: Annotated[int, msgspec.Meta(ge=0)]
    output_dir: Annotated[str, msgspec.Meta(pattern=r"^\w[\w.-]*$")]
    """Name of the checkpoints' folder in the work folder."""
    save_strategy: Literal["no", "steps", "epoch"]
    save_steps: Count
    save_total_limit: Count | None
    """Newest checkpoints to keep, besides the one of the lowest held-out loss. None: all."""
    eval_strategy: Literal["no", "steps", "epoch"]
    eval_steps: Count
    eval_on_start: bool
    per_device_eval_batch_size: Count
    """Of plan="recipe"; else held-out rows pass through the card as in training."""
    padding_free: bool | None
    """Of plan="recipe": rows one after another instead of padded. None: as unsloth decides, on a GPU yes."""
    report_to: str
    """Gets the held-out losses; the train losses stand in `loss.jsonl`."""
    resume_from_checkpoint: bool
    """True: continue an interrupted run of the same settings. False: set it aside and start anew."""


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """When checkpoints are saved, besides TRL's settings."""

    save_minutes: Annotated[float, msgspec.Meta(gt=0)] | None
    """Most minutes between two saves. None: no matter."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """How a step's rows pass through the card; the rows of a step, and their mathematics, are the same either way."""

    plan: Literal["auto", "recipe"]
    """auto: no padding, micro-batches and checkpointing chosen for the memory at hand. recipe:
    `per_device_train_batch_size`, `gradient_accumulation_steps` and `use_gradient_checkpointing` as they stand."""
    memory_gib: Annotated[float, msgspec.Meta(gt=0)] | None
    """The card's memory to plan for. None: what is free."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which rows a run sees."""

    source: str
    """The catalogue, in the work folder or anywhere; with `.gz` or `.zip` added it is found too."""
    fallback_source: str | None
    """What is read where the work folder has no `trn.json` and `source` asks for nothing else."""
    title_column: Annotated[str, msgspec.Meta(min_length=1)]
    """What the catalogue calls the title: a key of JSON, or a column of CSV, Excel or Parquet."""
    content_column: Annotated[str, msgspec.Meta(min_length=1)]
    """What it calls the content."""
    uid_column: Annotated[str, msgspec.Meta(min_length=1)]
    """What it calls the uid, which it need not have."""
    clean: bool
    """Unescape HTML, tidy white space, drop glued edition notes. False: only strip both ends."""
    max_damaged: Share
    """Largest share of damaged lines that is put up with; they are passed over and listed in `quarantine.jsonl`."""
    train_rows: Count | None
    """None: as many as the planned steps use."""
    eval_rows: Count
    """Held-out rows: scored before and after training, their loss logged while training."""
    eval_share: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    """Share of all descriptions that are never trained on; `eval_rows` are drawn from them."""
    question_rows: Count
    """Held-out rows, and as many rows of the training set, that are asked before and after training."""
    sample_seed: int


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How titles become texts. Decoding is greedy."""

    demo_titles: tuple[str, ...]
    """Titles whose answers are streamed before and after training."""
    max_new_tokens: Count
    generation_batch_size: Count | None
    """Titles that are answered at once. None: as many as the memory holds; without a GPU 32."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    preset: str
    requires_gpu: bool
    model: ModelConfig
    lora: LoraConfig
    training: TrainingConfig
    saving: SaveConfig
    planning: PlanConfig
    data: DataConfig
    generation: GenerationConfig

    def change(self, **settings: Any) -> "Config":
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


def setting_names() -> dict[str, str]:
    """Return every setting's name with the section it is in."""
    sections = [field for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type)]
    return {field.name: section.name for section in sections for field in dataclasses.fields(section.type)}


def nearest(name: str, known: Any) -> str:
    """Return a sentence that names the spelling meant, or all that there are."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(sorted(known))}."
