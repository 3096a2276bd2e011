"""Tiny random base models, one of each family that people fine-tune, with the traits of its tokenizer and attention."""

import functools
import json
from dataclasses import dataclass, field

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from tc3lib import prompts
from tc3lib.settings import EMBEDDED

SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A family's traits; tokens are named, None is a token that its tokenizer does not have."""

    config: str
    sentencepiece: bool
    bos: str | None
    eos: str
    pad: str | None
    special: tuple[str, ...] = ()
    unflagged: tuple[str, ...] = ()
    """Added tokens that are not flagged special."""
    stops: tuple[str, ...] = ()
    """What else ends an answer, by the generation config."""
    traits: dict = field(default_factory=dict)
    """Arguments of the config class."""
    packed: bool = True
    """Whether our packed attention is right for it."""


_IMAGE = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
_CHAT = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
FAMILIES = {
    "llama2": Family("LlamaConfig", True, "<s>", "</s>", None, ("<unk>",), traits={"num_key_value_heads": 4}),
    "llama3": Family(
        "LlamaConfig", False, "<|begin_of_text|>", "<|end_of_text|>", None, ("<|eot_id|>",), stops=("<|eot_id|>",),
        traits={
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 256,
            },
        },
    ),
    "tinyllama": Family("LlamaConfig", True, "<s>", "</s>", "</s>", ("<unk>",)),
    "smollm2": Family(
        "LlamaConfig", False, "<|im_start|>", "<|im_end|>", "<|im_end|>", _CHAT, ("<repo_name>",),
        traits={"tie_word_embeddings": True},
    ),
    "mistral": Family("MistralConfig", True, "<s>", "</s>", None, ("<unk>",), traits={"sliding_window": 48}),
    "qwen2.5": Family(
        "Qwen2Config", False, None, "<|im_end|>", "<|endoftext|>", _CHAT, ("<tool_call>", "<|fim_prefix|>"),
        stops=("<|endoftext|>",), traits={"tie_word_embeddings": True},
    ),
    "qwen3": Family(
        "Qwen3Config", False, None, "<|im_end|>", "<|endoftext|>", _CHAT, ("<think>", "</think>"),
        traits={"head_dim": 32},
    ),
    "gemma2": Family(
        "Gemma2Config", True, "<bos>", "<eos>", "<pad>", ("<unk>", "<start_of_turn>"), stops=("<start_of_turn>",),
        traits={
            "head_dim": 16, "query_pre_attn_scalar": 9, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 3.0,
            "sliding_window": 48,
        },
        packed=False,
    ),
    "gemma3": Family(
        "Gemma3TextConfig", True, "<bos>", "<eos>", "<pad>", ("<unk>", "<start_of_turn>"),
        traits={
            "head_dim": 16, "query_pre_attn_scalar": 9, "sliding_window": 48,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gemma3 with images": Family(
        "Gemma3Config", True, "<bos>", "<eos>", "<pad>", ("<unk>", "<start_of_turn>", *_IMAGE),
        traits={
            "vision_config": {
                "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
                "image_size": 28, "patch_size": 14,
            },
            "mm_tokens_per_image": 4,
            "text_config": {"head_dim": 16, "query_pre_attn_scalar": 9, "sliding_window": 48},
        },
    ),
    "phi3": Family(
        "Phi3Config", True, "<s>", "<|endoftext|>", "<|endoftext|>", ("<unk>", "<|end|>"), stops=("<|end|>",),
        traits={"sliding_window": 48},
    ),
    "phi4": Family("Phi3Config", False, "<|endoftext|>", "<|endoftext|>", "<|endoftext|>", _CHAT),
    "granite": Family(
        "GraniteConfig", False, "<|end_of_text|>", "<|end_of_text|>", "<|end_of_text|>", ("<|start_of_role|>",),
        ("<fim_prefix>",),
        traits={
            "tie_word_embeddings": True, "attention_multiplier": 0.4, "embedding_multiplier": 0.5,
            "residual_multiplier": 0.8, "logits_scaling": 2.0,
        },
    ),
}  # fmt: skip


def make(name, folder):
    """Write the family's base model to `folder`, and return the folder."""
    family = FAMILIES[name]
    tokenizer = make_tokenizer(family)
    tokenizer.save_pretrained(folder)
    ids = {
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    shape, traits = SHAPE | {"vocab_size": len(tokenizer), "initializer_range": 0.1} | ids, family.traits
    if "text_config" in traits:
        images = zip(("boi_token_index", "eoi_token_index", "image_token_index"), _IMAGE, strict=True)
        images = {name: tokenizer.convert_tokens_to_ids(token) for name, token in images}
        shape = traits | {"text_config": shape | traits["text_config"]} | ids | images
    else:
        shape |= traits
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, family.config)(**shape))
    stops = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(family.stops))]
    model.generation_config = GenerationConfig(**ids | {"eos_token_id": stops if family.stops else stops[0]})
    model.save_pretrained(folder)
    return folder


def make_tokenizer(family):
    """Return a tokenizer with the family's special tokens and its way to split text."""
    core = Tokenizer.from_str(_trained(family.sentencepiece))
    named = [token for token in (family.bos, family.eos, family.pad) if token]
    core.add_special_tokens([AddedToken(t, special=True) for t in dict.fromkeys([*named, *family.special])])
    core.add_tokens([AddedToken(t, special=False, normalized=False) for t in family.unflagged])
    roles = {"bos_token": family.bos, "eos_token": family.eos, "pad_token": family.pad}
    return PreTrainedTokenizerFast(
        tokenizer_object=core, clean_up_tokenization_spaces=False, **{role: t for role, t in roles.items() if t}
    )


@functools.cache
def _trained(sentencepiece):
    """Return a small BPE tokenizer in JSON: with bytes as its alphabet, or in the way of SentencePiece."""
    lines = (EMBEDDED / "trn.json").read_text(encoding="utf-8").splitlines()[:300]
    texts = [prompts.PROMPT, *(json.loads(line)["content"] for line in lines)]
    if sentencepiece:
        core = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
        core.normalizer = normalizers.Replace(" ", "▁")
        core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=alphabet, max_token_length=12, show_progress=False)
        core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(texts, trainer)
    if sentencepiece:  # the bytes are ordinary tokens there
        whole = json.loads(core.to_str())
        whole["added_tokens"] = []
        return json.dumps(whole)
    return core.to_str()
