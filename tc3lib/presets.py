"""The presets: whole settings for one model each, named by `settings.get`."""

import dataclasses

from tc3lib.settings import EMBEDDED, Settings, runs


def llama3_8b() -> Settings:
    """Return the recipe of the Tech Challenge: Llama-3-8B in 4 bit, for one L4 or A100."""
    return Settings()


def llama3_2_1b() -> Settings:
    """Return the recipe for Llama-3.2-1B, which fits a free T4."""
    config = llama3_8b().change(model_name="unsloth/Llama-3.2-1B-bnb-4bit", max_seq_length=1024, learning_rate=2e-4)
    return dataclasses.replace(config, preset="llama3_2_1b")


def qwen3_4b() -> Settings:
    """Return the recipe for Qwen3-4B, which fits a free T4."""
    config = llama3_8b().change(model_name="unsloth/Qwen3-4B-Base-bnb-4bit", max_seq_length=1024, learning_rate=1e-4)
    return dataclasses.replace(config, preset="qwen3_4b")


def smollm2() -> Settings:
    """Return a run of a real small model, SmolLM2-135M-Instruct, on two CPU cores: `make real`.

    `python data/make_smollm2.py` makes the model's folder.
    """
    config = llama3_8b().change(
        model_name=str(runs() / "smollm2-model"),
        max_seq_length=512,
        dtype="float32",
        load_in_4bit=False,
        fallback_source=str(EMBEDDED / "trn.json"),
        use_gradient_checkpointing=False,
        learning_rate=1e-3,
        gradient_accumulation_steps=1,
        max_steps=50,
        eval_rows=32,
        question_rows=24,
        demo_titles=("Small password manager", "Chess with a talking opponent", "Photo album for the terminal"),
    )
    return dataclasses.replace(config, preset="smollm2", requires_gpu=False)


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


PRESETS = {function.__name__: function for function in (llama3_8b, llama3_2_1b, qwen3_4b, smollm2, tiny)}
"""By their names."""
