"""Train the embedded base model from scratch: a very small Llama on the text of `make_corpus.py`.

Writes configuration, weights (bfloat16) and a tokenizer with Llama-3's special tokens to one folder.

Run: `python data/make_base_model.py`, on a GPU if there is one: see `README.md` beside it for the time.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from make_corpus import FRAME, corpus, load_titles, titles_in_corpus
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = 3500  # ordinary tokens, before the special ones
CONTEXT = 2048
SHARD = 4000  # documents made at a time
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_250|>"
SPECIAL = [
    BOS,
    EOS,
    *(f"<|reserved_special_token_{n}|>" for n in range(4)),
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
    *(f"<|reserved_special_token_{n}|>" for n in range(5, 251)),
]
SIZE = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}


def shard(seed: int, documents: int = SHARD) -> list[str]:
    """Make one part of the corpus and check that it keeps clear of the catalogue and of the prompt."""
    texts = list(islice(corpus(seed), documents))
    assert not titles_in_corpus(load_titles(), texts)
    assert not any(FRAME.search(text) for text in texts)
    return texts


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in the manner of Llama-3 and return it as a fast tokenizer."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=WORDS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    bos = (BOS, tokenizer.token_to_id(BOS))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(f"{BOS} $A", f"{BOS} $A {BOS}:1 $B:1", [bos]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


def pieces(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """Return documents as one row of token ids, each document between bos and eos."""
    rows = tokenizer.backend_tokenizer.encode_batch_fast([text + EOS for text in texts])
    return torch.tensor([token for row in rows for token in row.ids], dtype=torch.int16)


def make_data(seed: int, tokens: int) -> tuple[PreTrainedTokenizerFast, torch.Tensor]:
    """Make the tokenizer and at least `tokens` tokens of corpus, in several processes."""
    tokenizer = make_tokenizer(shard(seed))
    parts, count, workers = [], 0, os.cpu_count() or 1
    with ProcessPoolExecutor(workers) as pool, tqdm(total=tokens, desc="corpus", unit="token") as bar:
        number = seed + 1
        while count < tokens:
            for texts in pool.map(shard, range(number, number + workers)):
                parts.append(pieces(tokenizer, texts))
                count += len(parts[-1])
                bar.update(len(parts[-1]))
                if count >= tokens:
                    break
            number += workers
    return tokenizer, torch.cat(parts)


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int, **size: int) -> LlamaForCausalLM:
    """Return an untrained model; `size` overrides the sizes above."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **({"vocab_size": -(-len(tokenizer) // 64) * 64} | SIZE | HEADS | size),
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM,
    data: torch.Tensor,
    device: str,
    batch: int = 64,
    length: int = 1024,
    lr: float = 3e-3,
) -> float:
    """Train on a row of token ids, once through, and return the mean loss of the last twentieth."""
    model.to(device).train()
    steps = len(data) // (batch * length)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.04)
    losses = []
    rows = data[: steps * batch * length].view(steps, batch, length)
    for ids in tqdm(rows, desc="training", unit="step"):
        ids = ids.to(device).long()
        with torch.autocast(device, torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses[-max(1, steps // 20) :]).mean().item()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model and tokenizer to a folder."""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.cpu().to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Make the base model."""
    parser = argparse.ArgumentParser(description="Train the small base model from scratch.")
    parser.add_argument("--tokens", type=int, default=100_000_000, help="how many tokens to train on")
    parser.add_argument("--batch", type=int, default=64, help="rows of 1,024 tokens in a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("base_model"))
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer, data = make_data(arguments.seed, arguments.tokens)
    model = make_model(tokenizer, arguments.seed)
    loss = train(model, data, device, arguments.batch)
    save(model, tokenizer, arguments.out)
    print(f"{model.num_parameters():,} parameters, last loss {loss:.3f}, written to {arguments.out}")


if __name__ == "__main__":
    main()
