"""`--chat-template`: texts and prompts in a model's own format, and results that stay apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from demo import QUICK, Run

from lwq_ui.cli import main
from lwq_ui.core.settings import ROOT

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
WORDS = ["--task", "last_word", "--limit", "4"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The demo model as if it had been trained to chat."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(ROOT / "assets" / "demo_model", folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return str(folder)


def test_scores_of_turns_are_other_scores(run: Run, model: str) -> None:
    plain, chat = run("score", model, *QUICK), run("score", model, *QUICK, "--chat-template")
    assert (plain["chat_template"], chat["chat_template"]) == (False, True)
    assert plain["scores"]["lim"] != chat["scores"]["lim"]
    assert plain["scores"]["zd"] == chat["scores"]["zd"]
    assert run("score", model, *QUICK) == plain


def test_a_split_and_its_figures_say_what_they_rest_on(
    run: Run, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    split = ["split", model, *QUICK, "--ordering", "lim", "--low-layers", "3", "--chat-template"]
    config = run(*split)
    path.write_text(json.dumps(config))
    assert config["ordering"]["calibration"] == "shipped calibration text, as chat turns"
    assert config["evaluations"] == []
    plain = run("evaluate", str(path), *WORDS)
    chat = run("evaluate", str(path), *WORDS, "--chat-template")
    assert (plain["chat_template"], chat["chat_template"]) == (False, True)
    assert plain["metrics"] != chat["metrics"]
    assert run("evaluate", str(path), *WORDS) == plain
    assert main(["evaluate", str(path), *WORDS, "--chat-template"]) == 0
    assert "(n = 4, quick, chat)" in capfd.readouterr().out
    after = run(*split)["evaluations"]
    assert sorted(e.get("chat_template", False) for e in after) == [False, True]


def test_a_sweep_is_stored_apart(run: Run, model: str) -> None:
    sweep = ["sweep", model, "--ordering", "first", "--every", "24", *WORDS]
    plain, chat = run(*sweep), run(*sweep, "--chat-template")
    assert (plain["chat_template"], chat["chat_template"]) == (False, True)
    for one, other in zip(plain["points"], chat["points"], strict=True):
        assert one["bits"] == other["bits"] and one["metrics"] != other["metrics"]
    assert run(*sweep) == plain


def test_a_quantizer_calibrates_on_turns_wherever_its_config_goes(
    run: Run, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All layers but the first stay as they are: packing it is quick."""
    pins = [argument for layer in range(1, 24) for argument in ("--pin", f"{layer}=16")]
    split = ["split", model, "--ordering", "first", "--low-layers", "1", *pins]
    split += ["--quantizer", "spqr:documents=1,tokens=64"]
    figures = []
    for k, flags in enumerate(([], ["--chat-template"])):
        path = tmp_path / f"{k}.json"
        config = run(*split, *flags)
        path.write_text(json.dumps(config))
        assert ("as chat turns" in config["quantizer"]["name"]) == bool(flags)
        monkeypatch.setenv("LWQ_CACHE_DIR", str(tmp_path / f"cache {k}"))
        figures.append(run("evaluate", str(path), "--task", "perplexity", "--limit", "2"))
    assert figures[0]["metrics"] != figures[1]["metrics"]


def test_a_model_without_a_template_is_named(failing: Run, config: Path) -> None:
    said = (
        "The tokenizer of 'demo' has no chat template. Choose a model that was trained to chat, or "
        "work without the chat template."
    )
    assert failing("score", "demo", "--chat-template") == said
    assert failing("evaluate", str(config), *WORDS, "--chat-template") == said
    sweep = ["sweep", "demo", "--ordering", "lim", "--chat-template", *WORDS]
    assert failing(*sweep) == said
