"""Racing as an Optuna pruner, for studies that have no other store than Optuna's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import optuna

from criteria_cli.hpo.racing import ERROR_RATE, LEAST_COMPLETE, standing
from criteria_cli.hpo.scores import Floats, Scores


class RacingPruner(optuna.pruners.BasePruner):
    """Stops a trial when it can hardly end above the best complete one; see `hpo.racing`.

    Reads the folds and epochs of all trials out of their intermediate values, reported as criteria
    does: at step `fold` the mean over the finished folds, or, with `epochs`, at step
    `(fold - 1) * epochs + epoch` the mean over the finished folds and the best epoch so far of the
    current one, and at step `fold * epochs` the fold's result. All count from 1.

    Args:
        folds: folds of a trial.
        epochs: the most epochs of a fold, or 0 if a trial reports its folds alone.
        error_rate: the share of trials that would have beaten the best one which may be stopped.
        startup_trials: the first trials, by number, run to the end.
    """

    def __init__(
        self,
        folds: int,
        epochs: int = 0,
        *,
        error_rate: float = ERROR_RATE,
        startup_trials: int = LEAST_COMPLETE,
    ) -> None:
        self.folds = folds
        self.epochs = epochs
        self.error_rate = error_rate
        self.startup_trials = startup_trials

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether to stop; only for studies that maximise."""
        if study.direction is not optuna.study.StudyDirection.MAXIMIZE:
            raise ValueError("racing compares scores that are to be maximised")
        if trial.number < self.startup_trials or trial.last_step == self.folds * (self.epochs or 1):
            return False
        folds, epochs = self._scores(trial.intermediate_values)
        found = standing(trial.number, folds, epochs, self._history(study), self.error_rate)
        return found is not None and found.stop

    def _history(self, study: optuna.Study) -> Scores:
        trials = study.get_trials(deepcopy=False)
        tables = [self._scores(trial.intermediate_values) for trial in trials]
        state = optuna.trial.TrialState
        return Scores(
            number=np.array([trial.number for trial in trials], dtype=np.int64),
            complete=np.array([trial.state == state.COMPLETE for trial in trials], dtype=bool),
            stopped=np.array([trial.state == state.PRUNED for trial in trials], dtype=bool),
            folds=np.array([folds for folds, _ in tables]),
            epochs=np.array([epochs for _, epochs in tables]),
        )

    def _scores(self, values: Mapping[int, float]) -> tuple[Floats, Floats]:
        """(folds,) results and (folds, epochs) best scores so far."""
        folds = np.full(self.folds, np.nan)
        epochs = np.full((self.folds, self.epochs), np.nan)
        per_fold = self.epochs or 1
        for step, value in sorted(values.items()):
            fold, epoch = divmod(step - 1, per_fold)
            if not 0 <= fold < self.folds:
                continue
            score = value * (fold + 1) - folds[:fold].sum()
            if epoch == per_fold - 1:
                folds[fold] = score
            else:
                epochs[fold, epoch] = score
                # Epochs that were left out had the best score of those before them.
                epochs[fold, :epoch] = np.fmax.accumulate(epochs[fold, :epoch])
        return folds, epochs
