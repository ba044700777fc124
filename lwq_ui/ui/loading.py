"""Loading a model into memory, with the scores that every model has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..core.config import Config
from ..core.errors import UserError
from ..core.orderings import QUICK_SCORERS
from ..core.run import Run
from ..core.schema import ModelInfo, Scores
from ..engine.chat import has_template
from ..engine.configs import check_fingerprint
from ..engine.kept_texts import keep_text
from ..engine.texts import PG19 as PG19_TEXT
from ..engine.texts import Text, calibration_text
from .server import Server
from .session import Level, ModelChoice, Session
from .situation import OWN, PG19, Controls, Situation, first_controls
from .target import kept_context
from .worker import Job

if TYPE_CHECKING:
    from ..engine.models.loading import LoadedModel


@dataclass(frozen=True)
class Arrived:
    """A model that was loaded and scored on `text`. One that is `streamed` is read from the disk
    layer by layer. `calibration` is the reference of the text."""

    choice: ModelChoice
    info: ModelInfo
    streamed: bool
    text: Text
    scores: dict[str, Scores]
    calibration: str

    def session(self, server: Server) -> Session:
        """Returns a session of the model, with what the store has of it."""
        session = Session(self.choice, text=self.text, streamed=self.streamed)
        return server.with_model(session, self.info, self.scores)

    def controls(self, s: Situation) -> dict[str, Any]:
        """Returns the controls that another model changes. One of the program's own comes with the
        levels that it is shown with first."""
        memory = s.controls.memory
        another = s.session.info is None or s.session.info.fingerprint != self.info.fingerprint
        first = first_controls(self.choice.model_id) if another else {}
        context = kept_context(memory.context, s.session.info, self.info)
        return {
            "budget": None,
            "pins": {},
            "calibration": self.calibration,
            "memory": replace(memory, context=context),
            "beside": None,
            "beside_key": "",
            **first,
        }


def load_and_score(
    server: Server,
    user: str,
    choice: ModelChoice,
    text_of: Callable[[], Text],
    config: Config | None = None,
) -> Callable[[Job], Arrived]:
    """Returns the work of a job. A `config` must be of the model's files: UserError otherwise.

    A text of turns is read as it is where the model has no chat template.
    """

    def work(job: Job) -> Arrived:
        from ..engine import jobs
        from ..engine.devices import local_devices

        text = text_of()
        try:
            loaded = server.shelf.load(choice, job.run)
        except UserError as e:
            if config is None:
                raise
            raise UserError(
                f"{e} The config names '{config.model_id}': if its files lie elsewhere, load "
                "them before the config."
            ) from e
        server.devices = local_devices()
        if config:
            check_fingerprint(config, loaded.info)
        text = replace(text, chat=text.chat and has_template(loaded))
        scores = jobs.score(loaded, QUICK_SCORERS, text, job.run)
        server.shelf.assign(user, choice, loaded)
        calibration = keep_text(text, server.store)
        return Arrived(choice, loaded.info, loaded.streamed, text, scores, calibration)

    return work


def loaded_model(server: Server, session: Session, user: str, job: Job) -> LoadedModel:
    """Returns the session's model, loaded again where it left the memory. Raises UserError where
    its files have changed."""
    loaded = server.shelf.load(session.choice, job.run)
    if session.info and loaded.info.fingerprint != session.info.fingerprint:
        raise UserError(
            f"The files of '{loaded.info.model_id}' have changed since it was loaded. Press "
            "Load: its scores and figures are of other weights."
        )
    server.shelf.assign(user, session.choice, loaded)
    return loaded


def level_scores(
    loaded: LoadedModel, text: Text, level: Level, scorers: Sequence[str], run: Run
) -> dict[str, Scores]:
    """Returns the scores of a quantizer's level, by scorer."""
    from ..engine import jobs

    quantizer, low = level
    return jobs.score(loaded, scorers, text, run, quantizer=quantizer, low=low)


def chosen_text(controls: Controls, server: Server) -> Text:
    """Returns the text to calibrate on. Raises UserError where no file is chosen."""
    if controls.text == OWN and not controls.own_text:
        raise UserError("Choose a .txt file to calibrate on, or use the shipped text.")
    chosen = {OWN: controls.own_text, PG19: PG19_TEXT}.get(controls.text)
    return calibration_text(chosen, server.settings, controls.chat)
