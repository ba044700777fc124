"""Forecasting how long an evaluation takes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ...core.allocation import Split
from ...core.errors import Stopped
from ...core.run import Run
from .. import records
from ..banks.packing_cost import packing_cost
from ..chat import check_template
from ..models.loading import LoadedModel
from ..sweeps.sweep import Sweep
from .banks import bank_of
from .evaluating import Measurement


@dataclass(frozen=True)
class Forecast:
    """How long an evaluation would take.

    `seconds` are for what can be known before it starts, `unknown` are the tasks of which nothing
    can. Of the seconds, `calibrating` are for layers that a calibrated quantizer has to pack first.
    `splits` counts what is still to measure, of all tasks together.
    """

    seconds: float
    calibrating: float
    splits: int
    unknown: tuple[str, ...]

    @staticmethod
    def of_all(forecasts: Collection[Forecast]) -> Forecast:
        """Returns the forecast of several evaluations, one after the other."""
        return Forecast(
            sum(f.seconds for f in forecasts),
            sum(f.calibrating for f in forecasts),
            sum(f.splits for f in forecasts),
            tuple(dict.fromkeys(name for f in forecasts for name in f.unknown)),
        )


def forecast(loaded: LoadedModel, measurement: Measurement, run: Run) -> Forecast:
    """Returns what `evaluate` would take, timed on a sample of the work. Tasks that cannot be
    measured are among the unknown. Raises UserError where a chat template is asked for and there is
    none."""
    if measurement.chat_template:
        check_template(loaded)
    quantizer = measurement.quantizer
    seconds, count, unknown = 0.0, 0, []
    lacking: set[Split] = set()
    for name in measurement.tasks:
        try:
            task = measurement.task(name, run.settings)
            stored = measurement.stored(loaded.info, task, run.store)
            left = [split for split in dict.fromkeys(measurement.splits) if split not in stored]
            if not left:
                continue
            count += len(left)
            lacking |= set(left)
            bank = bank_of(loaded, quantizer, run.store)
            journal = records.journal_folder(loaded.info, task, quantizer, run.store)
            needed = task.forecast(Sweep(bank, left, run, journal), measurement.limit)
            if needed is None:
                unknown.append(name)
            else:
                seconds += needed
        except Stopped:
            raise
        except Exception:  # said when it is measured
            unknown.append(name)
    calibrating = 0.0
    if quantizer.calibrated:  # the others' packing is part of what is timed
        cost = packing_cost(loaded.info, quantizer, lacking, run.store, loaded.device)
        calibrating = cost.seconds
    return Forecast(seconds + calibrating, calibrating, count, tuple(unknown))
