"""Where a reproduction writes: a user's folders, or the committed ones when values are recorded.

Lives here: the three folders of one reproduction and the choice between them. Lives elsewhere: the defaults of all
commands (scmf.core.workspace), what is written (seeds, reproduce).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scmf.core.config.recipe import Recipe
from scmf.core.errors import ConfigError
from scmf.core.outputs import try_folder
from scmf.core.workspace import checkout, committed_results, default_folder, is_shipped


@dataclass(frozen=True)
class Folders:
    """Where a reproduction writes.

    Parameters
    ----------
    runs
        Checkpoints and logs.
    results_dir
        Result files.
    reports
        Report pages.
    """

    runs: Path
    results_dir: Path
    reports: Path

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        *,
        record: bool = False,
        runs: Path | None = None,
        results_dir: Path | None = None,
        reports: Path | None = None,
    ) -> Folders:
        """The folders that were named; for the others ``runs/reproduce/<recipe>``, or the committed ones.

        Parameters
        ----------
        recipe
            The recipe that is reproduced.
        record
            Expected values are recorded: results and pages of a recipe of the checkout go to its committed folders.
        runs, results_dir, reports
            Folders that were named by the caller.

        Raises
        ------
        ConfigError
            ``record`` for a recipe that was installed from a wheel: its files are not the user's to change.
        """
        own = default_folder("reproduce", recipe.name)
        root = checkout()
        if record and is_shipped(recipe.folder):
            if root is None:
                raise ConfigError(
                    f"recipe {recipe.name!r} of the installed package",
                    wanted="a recipe in a folder of yours, or a checkout of the repository",
                    where=recipe.folder,
                    fix=f"copy the folder and record there: scmf reproduce ./{recipe.name} --record",
                )
            results_dir, reports = results_dir or committed_results(), reports or root / "reports"
        return cls(runs or own / "runs", results_dir or own / "results", reports or own / "reports")

    def try_all(self) -> None:
        """See that all three can be written to; `ResourceError` where one cannot."""
        for option, folder in (("--runs", self.runs), ("--results", self.results_dir), ("--reports", self.reports)):
            try_folder(folder, option=option)
