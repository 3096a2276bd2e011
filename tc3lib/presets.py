"""Whole runs by name. Every number of the user's recipe stands once, in `llama3_8b`."""

import dataclasses
from pathlib import Path

from tc3lib.config import (
    Config,
    DataConfig,
    GenerationConfig,
    LoraConfig,
    ModelConfig,
    PlanConfig,
    SaveConfig,
    TrainingConfig,
    nearest,
)
from tc3lib.errors import Tc3Error

EMBEDDED = Path(__file__).resolve().parents[1] / "data"


def llama3_8b() -> Config:
    """Return the recipe of the Tech Challenge: Llama-3-8B in 4 bit, for one L4 or A100."""
    return Config(
        preset="llama3_8b",
        requires_gpu=True,
        model=ModelConfig(
            model_name="unsloth/llama-3-8b-bnb-4bit",
            max_seq_length=2048,
            dtype=None,
            load_in_4bit=True,
        ),
        lora=LoraConfig(
            r=16,
            lora_alpha=16,
            lora_dropout=0.0,
            bias="none",
            target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
            use_gradient_checkpointing="unsloth",
            random_state=3407,
            use_rslora=False,
            loftq_config=None,
        ),
        training=TrainingConfig(
            per_device_train_batch_size=8,
            gradient_accumulation_steps=4,
            warmup_steps=0.2,
            learning_rate=3e-5,
            max_steps=60,
            num_train_epochs=4,
            logging_steps=1,
            optim="adamw_8bit",
            weight_decay=0.01,
            lr_scheduler_type="linear",
            seed=3407,
            output_dir="outputs",
            save_strategy="steps",
            save_steps=10,
            save_total_limit=3,
            # The recipe plots an eval loss but never measured one; these four measure it, at every save.
            eval_strategy="steps",
            eval_steps=10,
            eval_on_start=True,
            per_device_eval_batch_size=8,
            padding_free=None,
            report_to="none",
            resume_from_checkpoint=True,
        ),
        saving=SaveConfig(save_minutes=15),
        planning=PlanConfig(plan="auto", memory_gib=None),
        data=DataConfig(
            source="trn.json",
            fallback_source=None,
            title_column="title",
            content_column="content",
            uid_column="uid",
            clean=True,
            max_damaged=0.01,
            train_rows=None,
            eval_rows=128,
            eval_share=0.05,
            question_rows=128,
            sample_seed=3407,
        ),
        generation=GenerationConfig(
            demo_titles=("Nice for Mice", "On Happiness, U.S. Edition", "The book of revelation"),
            max_new_tokens=128,
            generation_batch_size=None,
        ),
    )


def tiny() -> Config:
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


def get(name: str) -> Config:
    """Return the preset called `name`.

    Raises:
        Tc3Error: There is no such preset; the nearest one is named.
    """
    if name not in _PRESETS:
        raise Tc3Error(f"there is no preset {name!r} (TC3_PRESET). {nearest(name, _PRESETS)}")
    return _PRESETS[name]()
