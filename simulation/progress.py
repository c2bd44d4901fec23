# SPDX-License-Identifier: Apache-2.0
"""What a person sees while a run goes on: one line per stage with merchants, rounds, epsilon and time left."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class Stage:
    """A stage with a known number of steps."""

    def __init__(self, progress: Progress, name: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=total, detail="")

    def advance(self, detail: str = "") -> None:
        """One step further; `detail` stands at the end of the line."""
        self._progress.update(self._task, advance=1, detail=_plain(detail))


class Display:
    """The console of a run."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        """A line that stays; what it quotes cannot style or move the terminal."""
        self.console.print(Text(_plain(text)))

    def fail(self, lead: str, text: str) -> None:
        """The line that says why a run ended."""
        self.console.print(Text.assemble((lead, "bold red"), " ", _plain(text)))

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """A progress bar for the time of the stage; its last state stays on the screen."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=8),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
        )
        with Progress(*columns, console=self.console) as progress:
            yield Stage(progress, name, total)


def _plain(text: str) -> str:
    return "".join(character for character in text if character.isprintable() or character == "\n")
