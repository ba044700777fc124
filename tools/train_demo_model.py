"""Trains the demo model of assets/demo_model.

    python tools/train_demo_model.py CORPUS RUN [--start MODEL] [--tokens 600e6]

CORPUS is a folder with books.train.txt.xz and books.valid.txt.xz: plain text, a line
`<|endoftext|>` between books. RUN takes everything that the run makes: tokenizer/, the packed
text, checkpoint.pt, log.csv and, when it has ended, model/ in bfloat16.

A run may be ended at any time (Ctrl-C, kill, power): the same command goes on from its last
checkpoint, through the same batches and to the same weights as a run that was never ended (on a
GPU: but for what its kernels add up in changing order).

Muon for the matrices inside layers, AdamW for the embeddings and the norms; the learning rate
rises for a while and then falls in a straight line to 0.
"""

import argparse
import csv
import lzma
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)

SHAPE = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
CONTEXT = SHAPE["max_position_embeddings"]
BETWEEN_BOOKS = "<|endoftext|>"
HELD_OUT = 64  # windows of books.valid
SHARD = "9MB"
QUERIES = 128


def causal_attention(module, query, key, value, attention_mask, scaling=None, **rest):
    """Causal attention for a CPU in plain matrix products, QUERIES queries at a time, so that most
    of what the mask hides is never computed. torch's own kernel for CPUs takes longer to train.

    query, key, value: (batch, heads, tokens, head size). Returns (batch, tokens, heads, head size)
    and None for the weights, as transformers wants it.
    """
    tokens = query.shape[2]
    query = query * scaling
    out = []
    for first in range(0, tokens, QUERIES):
        rows = query[:, :, first : first + QUERIES]
        seen = first + rows.shape[2]
        scores = (rows @ key[:, :, :seen].transpose(-1, -2)).float()
        hidden = torch.full(scores.shape[-2:], -math.inf, device=scores.device).triu(first + 1)
        weights = torch.softmax(scores + hidden, -1).to(value.dtype)
        out.append(weights @ value[:, :, :seen])
    return torch.cat(out, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register("causal_blocks", causal_attention)


def books(path: Path) -> Iterator[str]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        lines: list[str] = []
        for line in file:
            if line.strip() == BETWEEN_BOOKS:
                yield "".join(lines).strip()
                lines = []
            else:
                lines.append(line)
        if lines:
            yield "".join(lines).strip()


def make_tokenizer(corpus: Path, start: str | None, folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of `start`, or a byte-level BPE trained on the corpus. Kept in `folder`."""
    if folder.exists():
        return AutoTokenizer.from_pretrained(folder)
    if start:
        tokenizer = AutoTokenizer.from_pretrained(start)
    else:
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=SHAPE["vocab_size"],
            special_tokens=[BETWEEN_BOOKS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        bpe.train_from_iterator(books(corpus / "books.train.txt.xz"), trainer)
        mark = dict.fromkeys(("bos_token", "eos_token", "pad_token"), BETWEEN_BOOKS)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, model_max_length=CONTEXT, **mark)
    tokenizer.save_pretrained(folder)
    return tokenizer


def pack(text: Path, tokenizer: PreTrainedTokenizerFast, packed: Path) -> np.ndarray:
    """All books as one row of uint16 token ids, the mark before each. Made once, then mapped."""
    if not packed.exists():
        unfinished = packed.with_suffix(".part")
        with unfinished.open("wb") as file:
            for book in books(text):
                ids = tokenizer.backend_tokenizer.encode(book).ids
                file.write(np.array([tokenizer.eos_token_id, *ids], dtype=np.uint16).tobytes())
        unfinished.replace(packed)
    return np.memmap(packed, dtype=np.uint16, mode="r")


def batch(tokens: np.ndarray, step: int, size: int, seed: int) -> torch.Tensor:
    """The windows of one step, (size, CONTEXT + 1), a function of the step and the seed alone:
    every epoch takes all windows once, in an order and with an offset of its own."""
    per_epoch = (len(tokens) - 1 - CONTEXT) // CONTEXT // size
    epoch, place = divmod(step, per_epoch)
    random = np.random.default_rng([seed, epoch])
    offset = random.integers(CONTEXT)
    order = random.permutation(per_epoch * size)[place * size : (place + 1) * size]
    rows = [tokens[offset + i * CONTEXT :][: CONTEXT + 1] for i in order]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def learning_rate(step: int, steps: int) -> float:
    """As a share of the highest: up over the first 2 % of the steps, then straight down to 0."""
    rise = max(1, steps // 50)
    return min((step + 1) / rise, (steps - step) / (steps - rise + 1))


def loss_of(model: LlamaForCausalLM, windows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats per token of windows (rows, CONTEXT + 1)."""
    with torch.autocast(windows.device.type, dtype=torch.bfloat16):
        states = model.model(input_ids=windows[:, :-1], use_cache=False).last_hidden_state
        logits = F.linear(states, model.lm_head.weight)
    return F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


@torch.no_grad()
def held_out(loss, tokens: np.ndarray, rows: int, device: str) -> float:
    """Mean loss over the first HELD_OUT windows; each token is predicted once."""
    windows = np.stack([tokens[i * CONTEXT :][: CONTEXT + 1] for i in range(HELD_OUT)])
    parts = torch.from_numpy(windows.astype(np.int64)).split(rows)
    return sum(float(loss(part.to(device))) for part in parts) / len(parts)


def optimizers(model: LlamaForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon steps are scaled to the size of AdamW's, so that one learning rate serves both."""
    inside = [p for p in model.model.layers.parameters() if p.ndim == 2]
    known = set(inside)
    others = [p for p in model.parameters() if p not in known]
    return [
        torch.optim.Muon(inside, lr=rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def save(checkpoint: Path, **state: object) -> None:
    unfinished = checkpoint.with_suffix(".part")
    torch.save(state, unfinished)
    os.replace(unfinished, checkpoint)


def train(args: argparse.Namespace) -> None:
    run, device = args.run, args.device
    run.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(args.corpus, args.start, run / "tokenizer")
    text = pack(args.corpus / "books.train.txt.xz", tokenizer, run / "train.u16")
    valid = pack(args.corpus / "books.valid.txt.xz", tokenizer, run / "valid.u16")

    set_seed(args.seed)
    attention = "causal_blocks" if device == "cpu" else "sdpa"
    if args.start:
        model = LlamaForCausalLM.from_pretrained(
            args.start, dtype=torch.float32, attn_implementation=attention
        )
    else:
        mark = {f"{name}_token_id": tokenizer.eos_token_id for name in ("bos", "eos", "pad")}
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, **mark, attn_implementation=attention))
    model.to(device).train()
    parts = optimizers(model, args.rate)
    loss = torch.compile(lambda windows: loss_of(model, windows))

    steps = round(args.tokens / (args.batch * CONTEXT))
    step, seconds, checkpoint, log = 0, 0.0, run / "checkpoint.pt", run / "log.csv"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        if state["steps"] != steps or state["seed"] != args.seed:
            raise SystemExit(f"{checkpoint} is of another run: give its --tokens and --seed.")
        model.load_state_dict(state["model"])
        for part, kept in zip(parts, state["optimizers"], strict=True):
            part.load_state_dict(kept)
        step, seconds = state["step"], state["seconds"]
        log.write_text(state["log"])
    else:
        log.write_text("step,tokens,loss,held_out,rate,seconds\n")

    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: ended.append(number))

    def keep() -> None:
        save(
            checkpoint,
            step=step,
            steps=steps,
            seed=args.seed,
            seconds=seconds,
            model=model.state_dict(),
            optimizers=[part.state_dict() for part in parts],
            log=log.read_text(),
        )

    began, recent = time.perf_counter() - seconds, []
    while step < steps and not ended:
        rate = args.rate * learning_rate(step, steps)
        windows = batch(text, step, args.batch, args.seed).to(device)
        rows = windows.split(args.rows)
        losses = []
        for part in rows:
            value = loss(part) / len(rows)
            value.backward()
            losses.append(value.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in parts:
            part.param_groups[0]["lr"] = rate
            part.step()
            part.zero_grad()
        step += 1
        recent.append(float(sum(losses)))
        if step % args.every == 0 or step == steps:
            seconds = time.perf_counter() - began
            value = held_out(loss, valid, args.rows, device)
            row = [step, step * args.batch * CONTEXT, f"{np.mean(recent):.4f}", f"{value:.4f}"]
            with log.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow([*row, f"{rate:.3g}", int(seconds)])
            print(
                f"step {row[0]} of {steps}: {row[2]}, held out {row[3]}, {int(seconds)} s",
                flush=True,
            )
            recent = []
            keep()
    if ended:
        seconds = time.perf_counter() - began
        keep()
        raise SystemExit(f"Ended at step {step} of {steps}. The same command goes on from there.")

    model.to(torch.bfloat16).save_pretrained(run / "model", max_shard_size=SHARD)
    tokenizer.save_pretrained(run / "model")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--start", help="a model to start from, with its tokenizer")
    parser.add_argument("--tokens", type=float, default=600e6, help="to see, in all")
    parser.add_argument("--batch", type=int, default=128, help="windows of 512 tokens in a step")
    parser.add_argument("--rows", type=int, default=64, help="windows at a time")
    parser.add_argument("--rate", type=float, default=3e-3, help="the highest learning rate")
    parser.add_argument("--every", type=int, default=100, help="steps from checkpoint to next")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(given)


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    train(arguments())
