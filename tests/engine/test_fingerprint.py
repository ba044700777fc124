"""Fingerprints: equal files have equal ones, and any other file another."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import transformers

from lwq_ui.engine.checkpoints import source as sources
from lwq_ui.engine.checkpoints.fingerprint import HASHES
from lwq_ui.engine.checkpoints.hub import HubFile
from lwq_ui.engine.checkpoints.source import Source


def test_equal_files_have_equal_fingerprints(copy: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(copy, tmp_path / "twin"))
    (twin / "README.md").write_text("not part of the model")
    first, second = (Source(str(f), f).fingerprint() for f in (copy, twin))
    assert first == second and re.fullmatch("[0-9a-f]{64}", first)
    assert first == Source("owner/name", copy, "revision").fingerprint()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_one_flipped_byte_is_another_model(copy: Path, tmp_path: Path, name: str) -> None:
    before = Source("x", copy).fingerprint()
    twin = Path(shutil.copytree(copy, tmp_path / "twin"))
    path = twin / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert Source("x", twin).fingerprint() != before
    # In place too: a file of the same length, written again.
    again = copy / name
    again.write_bytes(content)
    os.utime(again, ns=(1, 1))
    assert Source("x", copy).fingerprint() == Source("x", twin).fingerprint()


VOCABULARIES = [
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "tiktoken.model"),
    *("spiece.model", "sentencepiece.bpe.model", "tekken.json", "tokenizer.4.0.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("generation_config.json", "chat_template.jinja", "chat_template.json"),
]


@pytest.mark.parametrize("name", VOCABULARIES)
def test_every_file_that_is_read_is_part_of_the_model(copy: Path, name: str) -> None:
    (copy / name).write_text('{"a": 1}')
    first = Source("x", copy).fingerprint()
    (copy / name).write_text('{"a": 2}')
    second = Source("x", copy).fingerprint()
    (copy / name).unlink()
    assert len({first, second, Source("x", copy).fingerprint()}) == 3


def test_every_vocabulary_of_transformers_is_read() -> None:
    """Whatever a tokenizer's class there calls its files: they are downloaded and hashed."""
    tables = []
    for path in Path(transformers.__file__).parent.rglob("tokenization_*.py"):
        tables += re.findall(r"VOCAB_FILES_NAMES = {(.*?)}", path.read_text("utf-8"), re.S)
    names = {name for table in tables for name in re.findall(r': "([\w.-]+\.\w+)"', table)}
    assert {"spiece.model", "vocab.txt", "source.spm", "bpe.codes"} <= names and len(names) > 20
    for patterns in (sources.READ, sources.DESCRIPTION):
        assert not [n for n in names if not any(Path(n).match(pattern) for pattern in patterns)]


def test_what_nobody_reads_is_no_part_of_the_model(copy: Path) -> None:
    before = Source("x", copy).fingerprint()
    for name in ("README.md", "LICENSE.txt", "notes.txt", "trainer_state.json", "lwq.json"):
        (copy / name).write_text("{}")
    (copy / ".tokenizer.model").write_text("a Mac's")
    (copy / "vocab.txt").mkdir()
    os.mkfifo(copy / "merges.txt")
    assert Source("x", copy).fingerprint() == before


def test_another_file_in_the_place_of_one_is_seen(copy: Path, tmp_path: Path) -> None:
    """Of the same length and, as some copies are, of the same time."""
    path = copy / "config.json"
    before, stat = Source("x", copy).fingerprint(), path.stat()
    other = tmp_path / "other.json"
    other.write_text(path.read_text().replace('"vocab_size": 4096', '"vocab_size": 4095'))
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)
    assert path.stat().st_mtime_ns == stat.st_mtime_ns and path.stat().st_size == stat.st_size
    assert Source("x", copy).fingerprint() != before


def test_a_fingerprint_without_the_weights_at_hand(copy: Path, tmp_path: Path) -> None:
    """What the Hub says of its files stands in for files that were not downloaded."""
    whole = Source("x", copy).fingerprint()
    files = Source("x", copy).weight_files()
    on_hub = tuple(HubFile(p.name, p.stat().st_size, HASHES.get(p)) for p in files)
    described = Path(shutil.copytree(copy, tmp_path / "described"))
    (described / "model.safetensors").unlink()
    assert Source("x", described, on_hub=on_hub).fingerprint() == whole
    assert Source("x", described).fingerprint() != whole


def test_the_hubs_cache_is_not_read_to_be_hashed(copy: Path, tmp_path: Path) -> None:
    """Its large files are named by their hash."""
    blob = tmp_path / HASHES.get(copy / "model.safetensors")
    shutil.move(copy / "model.safetensors", blob)
    (copy / "model.safetensors").symlink_to(blob)
    blob.chmod(0o000)
    assert HASHES.get(copy / "model.safetensors") == blob.name
