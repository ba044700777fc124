"""Chat templates: texts as turns, and lm-eval's prompts, against stock lm-eval."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import tiny
from chatting import chatting
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from lwq_ui.core.errors import UserError
from lwq_ui.core.run import Run
from lwq_ui.core.store import Store
from lwq_ui.core.writing import Prompt
from lwq_ui.engine import jobs, records
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.banks.composing import compose
from lwq_ui.engine.chat import has_template, user_turn
from lwq_ui.engine.generation import fit_prompt
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.sweeps.sweep import Sweep
from lwq_ui.engine.tasks import task_named
from lwq_ui.engine.tasks.base import Measured
from lwq_ui.engine.tasks.lm_eval_loading import set_up
from lwq_ui.engine.tasks.lm_eval_results import BOOTSTRAP
from lwq_ui.engine.tasks.lm_eval_runner import forecast_task, run_task
from lwq_ui.engine.texts import Text, cut_short, tokenize

SPLITS = [(2, 4, 16, 8), (16,) * 4]
LIMIT = 5
LONG = "The old man opened the door quietly and looked at the river. " * 60
NO_TEMPLATE = "has no chat template. Choose a model that was trained to chat, or work without"

ROWS = [
    {"q": f"Is it {word} or not?", "good": f"{word} as ever", "bad": f"not {word}", "n": k % 2}
    for k, word in enumerate(["green", "old", "quiet", "far", "small", "dark", "late"])
]
COMMON: dict[str, Any] = {"test_split": "test", "num_fewshot": 0, "metadata": {"version": 1}}
EXAMPLES = {"num_fewshot": 2, "fewshot_split": "train"}
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}\nAnswer:",
    "doc_to_choice": "{{[good, bad]}}",
    "doc_to_target": "n",
    "metric_list": [{"metric": "acc"}, {"metric": "brier_score"}],
}
WRITTEN = {
    "output_type": "generate_until",
    "doc_to_text": "{{q}}",
    "doc_to_target": "{{good}}",
    "generation_kwargs": {"until": ["."], "max_gen_toks": 8, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}
TASKS: dict[str, dict[str, Any]] = {
    "choice": CHOICE,
    "examples": {**CHOICE, **EXAMPLES, "description": "Answer in a word."},
    "begun": {**CHOICE, **EXAMPLES, "gen_prefix": "I say"},
    "contexts": {
        "output_type": "multiple_choice",
        "doc_to_text": "n",
        "doc_to_choice": "{{[good, bad]}}",
        "doc_to_target": "{{q}}",
    },
    "word": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{q}}",
        "doc_to_target": " {{good}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{q}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
    "written": WRITTEN,
    "written-examples": {**WRITTEN, **EXAMPLES},
}


def config_of(name: str) -> dict[str, Any]:
    rows = datasets.Dataset.from_list(ROWS)
    made = lambda **kwargs: {"test": rows, "train": rows}  # noqa: E731  (lm-eval shows its source)
    return {**COMMON, **TASKS[name], "task": name, "custom_dataset": made}


def load(name: str) -> dict[str, Any]:
    return set_up(TaskManager(include_defaults=False).load([config_of(name)]), name)


@pytest.fixture(scope="module")
def folder(folder_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    plain = folder_of("llama", max_position_embeddings=1024)
    return chatting(plain, tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="module")
def chat(folder: Path) -> LoadedModel:
    return tiny.load(folder)


@pytest.fixture(scope="module")
def bank(chat: LoadedModel) -> Bank:
    return Bank(chat, tiny.QUANTO)


def stock(bank: Bank, name: str, split: tuple[int, ...], chat_template: bool) -> Any:
    lm = HFLM(
        pretrained=compose(bank, split, tiny.run()),
        tokenizer=bank.loaded.tokenizer,
        batch_size=4,
        softmax_dtype="float32",
    )
    return simple_evaluate(
        model=lm,
        tasks=[config_of(name)],
        task_manager=TaskManager(include_defaults=False),
        limit=LIMIT,
        bootstrap_iters=BOOTSTRAP,
        apply_chat_template=chat_template,
        log_samples=True,
    )


def measured(bank: Bank, name: str, chat_template: bool) -> list[Measured]:
    sweep = Sweep(bank, SPLITS, tiny.run())
    return run_task(name, name, lambda: load(name), sweep, LIMIT, chat_template)


@pytest.mark.parametrize("name", TASKS)
def test_prompts_in_the_template_score_as_stock_lm_evals(name: str, bank: Bank) -> None:
    for split, got in zip(SPLITS, measured(bank, name, True), strict=True):
        report = stock(bank, name, split, True)
        expected = report["results"][name]
        assert got.metrics.keys() >= {m["metric"] for m in TASKS[name].get("metric_list", ())}
        for metric, found in got.metrics.items():
            assert found.value == pytest.approx(expected[f"{metric},none"], rel=1e-4)
            error = expected[f"{metric}_stderr,none"]
            assert found.stderr == (None if error == "N/A" else pytest.approx(error, rel=1e-3))
        samples = report["samples"][name]
        if name != "rolling":
            prompt = samples[0]["arguments"][0][0]
            assert prompt.count("<user>\n") == 1 + TASKS[name].get("num_fewshot", 0)
            assert prompt.count(bank.loaded.tokenizer.bos_token) >= 1
        if name == "word":
            logs = [s["perplexity"] for s in samples]
            assert got.items["perplexity"] == pytest.approx(logs, rel=1e-4)


@pytest.mark.parametrize("name", ["word", "rolling"])
def test_the_template_changes_prompts_and_leaves_running_text_alone(name: str, bank: Bank) -> None:
    plain, chat = (measured(bank, name, setting)[0] for setting in (False, True))
    assert (plain == chat) == (name == "rolling")


def test_what_is_forecast_is_what_is_measured(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    made = Sweep.plan
    monkeypatch.setattr(Sweep, "plan", lambda s, r, d=False: asked.append(list(r)) or made(s, r, d))
    sweep = Sweep(bank, SPLITS, tiny.run())
    assert forecast_task("word", "word", lambda: load("word"), sweep, LIMIT, True)
    run_task("word", "word", lambda: load("word"), sweep, LIMIT, True)
    assert asked[0] == asked[1] and len(asked) == 2


# ---- texts


def whole_turn(loaded: LoadedModel, text: str) -> list[int]:
    """The obvious way: written out, then tokenized without another token in front."""
    conversation = [{"role": "user", "content": text}]
    written = loaded.tokenizer.apply_chat_template(
        conversation, tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = loaded.tokenizer(written, add_special_tokens=False)["input_ids"]
    return ids


def test_a_text_is_the_users_turn_and_the_answer_begins(chat: LoadedModel) -> None:
    turn = user_turn(chat, "Who sees the river?")
    assert turn == whole_turn(chat, "Who sees the river?")
    written = chat.tokenizer.decode(turn)
    bos, eos = chat.tokenizer.bos_token, chat.tokenizer.eos_token
    assert written == f"{bos}<user>\nWho sees the river?{eos}\n<assistant>\n"


def test_a_long_turn_loses_the_end_of_its_text_and_nothing_of_the_template(
    chat: LoadedModel,
) -> None:
    whole = whole_turn(chat, LONG)
    tail = whole_turn(chat, "x")[-8:]
    for most in (40, 200, len(whole) - 1):
        turn = user_turn(chat, LONG, most)
        assert most - 4 <= len(turn) <= most
        assert turn[-8:] == tail
        kept = most - 20
        assert turn[:kept] == whole[:kept]
    assert user_turn(chat, LONG, len(whole)) == whole
    with pytest.raises(UserError, match=r"leaves no room for a text in 5 tokens\. Allow more"):
        user_turn(chat, LONG, 5)


def test_calibration_documents_are_turns(chat: LoadedModel) -> None:
    text = Text("own", ("Who sees?", "  ", LONG), chat=True)
    turns = tokenize(chat, text, 100)
    assert turns == [whole_turn(chat, "Who sees?"), user_turn(chat, LONG, 100)]
    assert tokenize(chat, text, 100, most=30) == [turns[0], turns[1][: 30 - len(turns[0])]]
    assert cut_short(chat, text) == 1
    assert text.title == "own, as chat turns"


def test_a_text_of_turns_has_a_digest_of_its_own() -> None:
    plain = Text("own", ("one", "two"))
    # This digest is a part of stored keys: it must stay.
    assert plain.digest == hashlib.sha256(b"one\0two").hexdigest()
    assert replace(plain, chat=True).digest not in (
        plain.digest,
        Text("own", ("two", "one")).digest,
    )


def test_scores_of_turns_are_other_scores_under_another_key(
    chat: LoadedModel, text: Text, run: Run, store: Store
) -> None:
    plain = jobs.score(chat, ["lim", "zd"], text, run)
    turns = jobs.score(chat, ["lim", "zd"], replace(text, chat=True), run)
    assert plain["lim"].values != turns["lim"].values
    assert plain["zd"] == turns["zd"]  # looks at no text
    assert turns["lim"].calibration == "a few, as chat turns"
    assert records.known_scores(chat.info, text, store) == plain
    assert records.known_scores(chat.info, replace(text, chat=True), store) == turns


# ---- evaluations


def test_evaluations_are_kept_apart_by_their_prompts(folder: Path, run: Run, store: Store) -> None:
    loaded = tiny.load(folder)
    plain = jobs.Measurement(SPLITS, tiny.QUANTO, ["last_word", "perplexity"], 3)
    chat = jobs.Measurement(SPLITS, tiny.QUANTO, ["last_word", "perplexity"], 3, True)
    one, other = (jobs.evaluate(loaded, m, run) for m in (plain, chat))
    assert (one.computed, other.computed) == (4, 2)  # passages are running text: known already
    assert [e.chat_template for e in one.evaluations] == [False] * 4
    assert [e.chat_template for e in other.evaluations] == [True, True, False, False]
    for a, b in zip(one.evaluations[:2], other.evaluations[:2], strict=True):
        assert a.metrics != b.metrics
    assert one.evaluations[2:] == other.evaluations[2:]
    for measurement, done in ((plain, one), (chat, other)):
        again = jobs.evaluate(loaded, measurement, run)
        assert (again.evaluations, again.computed) == (done.evaluations, 0)
    tasks = {name: task_named(name, run.settings) for name in plain.tasks}
    found = records.known_evaluations(loaded.info, tasks, store)
    assert sorted(e.chat_template for e in found) == [False] * 4 + [True] * 2


def test_plain_keys_say_nothing_of_a_template(chat: LoadedModel, store: Store) -> None:
    task = task_named("last_word", tiny.run().settings)
    for with_template in (False, True):
        some = task.with_chat_template() if with_template else task
        key = records.evaluation_key(chat.info, some, SPLITS[0], tiny.QUANTO, 3)
        assert ("chat_template" in key.parts) == with_template
    folders = {
        records.journal_folder(chat.info, some, tiny.QUANTO, store)
        for some in (task, task.with_chat_template(), task)
    }
    assert len(folders) == 2


# ---- what cannot be


def test_without_a_template_one_sentence_says_so(loaded: LoadedModel, text: Text, run: Run) -> None:
    assert not has_template(loaded)
    measurement = jobs.Measurement(SPLITS, tiny.QUANTO, ["perplexity"], 2, True)
    for ask in (
        lambda: jobs.score(loaded, ["zd"], replace(text, chat=True), run),
        lambda: jobs.evaluate(loaded, measurement, run),
        lambda: jobs.forecast(loaded, measurement, run),
        lambda: list(jobs.generate(loaded, SPLITS[0], tiny.QUANTO, Prompt("Hi", chat=True), run)),
    ):
        with pytest.raises(UserError, match=NO_TEMPLATE):
            ask()


def test_a_template_that_fails_is_named(folder: Path, tmp_path: Path, run: Run) -> None:
    broken = "{% if messages %}{{ raise_exception('it takes no turn') }}{% endif %}"
    loaded = tiny.load(chatting(folder, tmp_path / "broken", broken))
    with pytest.raises(UserError, match=r"The chat template of .* fails \(.*it takes no turn\)"):
        user_turn(loaded, "Hi")
    measurement = jobs.Measurement(SPLITS[:1], tiny.QUANTO, ["last_word"], 2, True)
    with pytest.raises(UserError, match="'last_word' cannot be measured: it takes no turn"):
        jobs.evaluate(loaded, measurement, run)


# ---- writing


def test_both_models_answer_the_users_turn(folder: Path, run: Run) -> None:
    loaded = tiny.load(folder)
    asked = "Who sees the river?"
    prompt, room = fit_prompt(loaded, asked, 6, chat=True)
    assert (prompt, room) == (whole_turn(loaded, asked), 6)

    def write(text: str, chat: bool = False) -> str:
        *_, last = jobs.generate(loaded, SPLITS[0], tiny.QUANTO, Prompt(text, 0, 6, chat), run)
        return last.text

    plain, answers = write(asked), write(asked, chat=True)
    same = write(loaded.tokenizer.decode(prompt))
    assert answers == same != plain


def test_a_long_turn_leaves_room_for_the_answer(chat: LoadedModel) -> None:
    turn, room = fit_prompt(chat, LONG * 3, 100, chat=True)
    assert len(turn) <= 924 and room == 100
    assert turn[-8:] == whole_turn(chat, "x")[-8:]
