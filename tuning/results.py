"""What a search found: the trials as rows, the best as a recipe, its test, and the recipe it started from beside it."""

import dataclasses
import json
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras_tuner

from resnet_keras.config.recipes import RECIPES, recipe
from resnet_keras.config.run_folder import HISTORY
from resnet_keras.config.stored import config_from_json
from resnet_keras.config.table import read_table
from resnet_keras.config.train import TrainConfig
from resnet_keras.files import json_text, read_json, write_text

from .oracles import Status
from .report import TrialRow, write_report
from .runs import CONFIG, Outcome, RunError, run
from .search import OBJECTIVES, Search, failure_of

BEST = "best.json"
REPORT = "report.html"
OUTCOME = "outcome.json"


@dataclass
class Results:
    """The end of a search.

    Args:
        search: that was run, or still runs.
        retrain: seeds with which the best config is trained in full.
    """

    search: Search
    retrain: int

    @property
    def folder(self) -> Path:
        return self.search.folder

    def run_baseline(self) -> None:
        """Train the recipe that the space starts from, on the same images and as long as a full trial."""
        base = self.search.config(keras_tuner.HyperParameters())
        if base.name not in RECIPES:
            return
        plain = recipe(base.name)
        sizes = plain.train_sizes[: base.epochs]
        fixed = {"epochs": base.epochs, "validation": base.validation, "final_test": False, "train_sizes": sizes}
        config = dataclasses.replace(plain, **{**self.search.settings.changes, **fixed})
        what = f"training the recipe {base.name}, to compare with"
        outcome = self._once(config, self.folder / "baseline", self.search.deadline, what=what)
        if outcome:
            self.search.log(f"the recipe {base.name}: {self._score_text(outcome)}, after {base.epochs} epochs")

    def last_moment(self, deadline: float | None) -> float | None:
        """When trials must end, so that the best one of now can still be trained in full within the time."""
        baseline, best = self._outcome(self.folder / "baseline"), self.best(self.rows())
        known = [] if baseline is None else [baseline.seconds]
        if best is not None:
            known.append(best.figures["seconds"] * self.search.epochs / best.figures["epochs"])
        if deadline is None or not known:
            return deadline
        full = max(known) / (1 - self.search.settings.validation)
        confirming = self.search.settings.tuner == "hyperband"
        return deadline - (self.retrain + confirming) * full

    def _once(self, config: TrainConfig, folder: Path, deadline: float | None = None, *, what: str) -> Outcome | None:
        """A run that is not repeated where it was finished before; None where it fails."""
        if outcome := self._outcome(folder):
            if _holds(folder / CONFIG, config):
                return outcome
            shutil.rmtree(folder)  # of another best trial, before the search was resumed
        self.search.log(what)
        try:
            outcome = run(config, folder, deadline)
        except RunError as error:
            self.search.log(f"{folder.name} failed: {error}")
            return None
        write_text(folder / OUTCOME, json.dumps(dataclasses.asdict(outcome)))
        return outcome

    def _outcome(self, folder: Path) -> Outcome | None:
        path = folder / OUTCOME
        return Outcome(**read_json(path, "remove it, and the run is done again")) if path.exists() else None

    def _score_text(self, outcome: Outcome) -> str:
        return f"{self.search.settings.objective} {self._figure(outcome):.4f}"

    def rows(self) -> list[TrialRow]:
        """The trials that ended, in their order."""
        found = []
        for trial_id in dict.fromkeys(self.search.full_oracle.end_order):
            trial = self.search.full_oracle.trials[trial_id]
            folder = self.search.trial_folder(trial_id)
            metrics = trial.metrics.metrics
            figures = {name: float(history.get_best_value()) for name, history in metrics.items()}
            values = {key: value for key, value in trial.hyperparameters.values.items() if "/" not in key}
            done = trial.status == Status.COMPLETED
            found.append(
                TrialRow(
                    trial_id,
                    values,
                    trial.score if done else None,
                    figures,
                    None if done else failure_of(folder),
                    _curve(folder / "run") if done else [],
                )
            )
        return found

    def best(self, rows: list[TrialRow]) -> TrialRow | None:
        """The best trial of those that were trained in full; of the others where there is none."""
        done = [row for row in rows if row.score is not None]
        full = [row for row in done if row.figures.get("epochs") == self.search.epochs] or done
        sign = 1 if OBJECTIVES[self.search.settings.objective] == "max" else -1
        return max(full, key=lambda row: sign * (row.score or 0.0), default=None)

    def best_config(self, row: TrialRow) -> TrainConfig:
        """The config of a trial as a recipe: trained in full, tested on the test split."""
        config = config_from_json((self.search.trial_folder(row.trial_id) / CONFIG).read_text("utf-8"))
        name = config.name if config.name.endswith("-tuned") else f"{config.name}-tuned"
        full = {"epochs": self.search.epochs, "validation": 0.0, "final_test": True, "run_dir": None, "name": name}
        return dataclasses.replace(config, **full)

    def write(self) -> dict[str, Any]:
        """`best.json` and `report.html` of what there is; returns a summary."""
        rows = self.rows()
        best, settings = self.best(rows), self.search.settings
        failed = sum(row.score is None for row in rows)
        summary: dict[str, Any] = {"trials": len(rows), "failed": failed, "objective": settings.objective}
        if best is not None:
            write_text(self.folder / BEST, self.best_config(best).to_json() + "\n")
            summary |= {"best_trial": best.trial_id, f"best_{settings.objective}": round(best.score or 0.0, 4)}
            summary |= {"best_epochs": int(best.figures["epochs"]), "best_recipe": str(self.folder / BEST)}
        baseline = self._outcome(self.folder / "baseline")
        if baseline is not None and best is not None and best.score is not None:
            own = self._figure(baseline)
            summary |= {f"recipe_{settings.objective}": round(own, 4), "verdict": self._verdict(best, own)}
            if confirmed := self._confirmed(best):
                summary[f"best_{settings.objective}_in_full"] = round(self._figure(confirmed), 4)
        tests = [outcome for seed in range(self.retrain) if (outcome := self._outcome(self._final(seed)))]
        if tests:
            mean, deviation = mean_and_deviation([outcome.accuracy for outcome in tests])
            summary |= {"test_accuracy": round(mean, 4), "test_deviation": round(deviation, 4), "test_runs": len(tests)}
        summary["report"] = str(self.folder / REPORT)
        write_report(self.folder / REPORT, self.search, rows, best, summary)
        write_text(self.folder / "summary.json", json_text(summary) + "\n")
        return summary

    def _verdict(self, best: TrialRow, own: float) -> str:
        found = self._confirmed(best)
        score = best.score if found is None else self._figure(found)
        if score is None or (found is None and best.figures["epochs"] != self.search.epochs):
            return f"not comparable: no trial had all {self.search.epochs} epochs"
        gain = score - own if OBJECTIVES[self.search.settings.objective] == "max" else own - score
        images = len(self.search.source.measured)
        if gain > 0:
            return f"beats the recipe by {gain:.4f} on {images} validation images"
        return f"does not beat the recipe: {gain:.4f} on {images} validation images"

    def _confirmed(self, best: TrialRow) -> Outcome | None:
        """The best config trained as long as the recipe, where its trial was shorter and that is done."""
        path = self.folder / "confirmed" / CONFIG
        if not path.exists() or not _holds(path, self._longer(best)):
            return None
        return self._outcome(self.folder / "confirmed")

    def _longer(self, best: TrialRow) -> TrainConfig:
        return dataclasses.replace(self.best_config(best), validation=self.search.settings.validation, final_test=False)

    def _figure(self, outcome: Outcome) -> float:
        return outcome.accuracy if self.search.settings.objective == "val_accuracy" else outcome.loss

    def _final(self, seed: int) -> Path:
        return self.folder / "final" / f"seed_{seed}"

    def finish(self) -> dict[str, Any]:
        """Train the best config in full, test it, and write everything."""
        best = self.best(self.rows())
        if best is not None:
            config = self.best_config(best)
            if best.figures["epochs"] != self.search.epochs:
                what = f"training the best config for {self.search.epochs} epochs, beside the recipe"
                self._once(self._longer(best), self.folder / "confirmed", what=what)
            for seed in range(self.retrain):
                what = f"training the best config in full, seed {seed}, for its test accuracy"
                self._once(dataclasses.replace(config, seed=seed), self._final(seed), what=what)
        return self.write()


def _holds(path: Path, config: TrainConfig) -> bool:
    """Whether a file holds a config, by whatever version it was written."""
    return config_from_json(path.read_text("utf-8"), str(path)) == config_from_json(config.to_json())


def _curve(run_folder: Path) -> list[tuple[int, float]]:
    """Epoch and validation accuracy."""
    if not (run_folder / HISTORY).exists():
        return []
    return [(int(row["epoch"]), row["val_accuracy"]) for row in read_table(run_folder) if row["val_accuracy"]]


def mean_and_deviation(values: list[float]) -> tuple[float, float]:
    """The deviation is that of a sample; 0 for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
