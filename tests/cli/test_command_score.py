"""`score`: layers scored, again and on other texts; what fails fails alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from demo import QUICK, N, Run

from lwq_ui.cli import main


def test_score(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    found = run("score", "demo", *QUICK)
    assert set(found["scores"]) == {"lim", "zd"} and len(found["fingerprint"]) == 64
    for scores in found["scores"].values():
        assert len(scores) == N and len(set(scores)) > 1
    assert all(-1 <= s <= 1 for s in found["scores"]["lim"])
    lim = found["scores"]["lim"]
    assert found["orderings"]["lim"] == sorted(range(N), key=lambda i: (-lim[i], i))
    assert sorted(found["orderings"]) == [
        *("block-influence", "lim", "reverse-lim", "reverse-zd", "zd")
    ]
    assert found["orderings"]["block-influence"] == found["orderings"]["lim"]
    one = run("score", "demo", "--scorer", "zd")
    assert list(one["scores"]) == ["zd"] and one["scores"]["zd"] == found["scores"]["zd"]
    assert run("score", "demo", *QUICK) == found
    assert main(["score", "demo", *QUICK]) == 0
    assert "LIM on " in capfd.readouterr().out


def test_an_empty_cache_gives_the_same_numbers_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    threads = torch.get_num_threads()
    results = []
    try:
        for k, count in enumerate((1, 1, 2)):
            monkeypatch.setenv("LWQ_CACHE_DIR", str(tmp_path / str(k)))
            torch.set_num_threads(count)
            results.append(run("score", "demo", "--max-tokens", "100"))
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1]
    assert results[2]["orderings"] == results[0]["orderings"]
    assert results[2]["scores"]["lim"] == pytest.approx(results[0]["scores"]["lim"], rel=1e-4)


def test_score_on_a_text_of_ones_own(run: Run, failing: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("The old house stood at the end of the lane. " * 20)
    found = run("score", "demo", "--scorer", "lim", "--text", str(path))
    assert (
        found["scores"]["lim"] != run("score", "demo", "--scorer", "lim", *QUICK)["scores"]["lim"]
    )
    missing = str(tmp_path / "nowhere.txt")
    assert failing("score", "demo", "--text", missing) == f"There is no text file '{missing}'."
    path.write_bytes(b"\xff\xfe\xfa")
    assert failing("score", "demo", "--text", str(path)) == "'mine.txt' is not UTF-8 text."
    path.write_text("  \n\n ")
    assert failing("score", "demo", "--text", str(path)) == "'mine.txt' holds no text."


def test_a_scorer_that_fails_fails_alone(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lwq_ui.engine import jobs

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(jobs.scoring, "level_scores", fail)
    both = ["--scorer", "sensitivity", "--scorer", "zd", "--max-tokens", "77"]
    assert main(["score", "demo", *both, "--json", "-"]) == 1
    out, err = capfd.readouterr()
    assert list(json.loads(out)["scores"]) == ["zd"]
    assert err.splitlines()[-1].startswith("The memory is not enough.")
