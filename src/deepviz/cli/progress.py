"""How far a long command is, on stderr: a bar on a terminal, else a plain line now and then."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from deepviz.cli.process import abandon_streams

INTERVAL = 30.0
"""Seconds between two lines where stderr is no terminal."""


class Bar:
    """A bar with the time left.

    Args:
        bar: on a terminal; else it is disabled.
        unit: of what `done` counts, for plain lines.
        text: the column of the description.
    """

    def __init__(self, bar: Progress, unit: str) -> None:
        self._bar, self._unit = bar, unit
        self._task: TaskID | None = None
        self._started = monotonic()

    def show(self, what: str, done: float, total: int) -> None:
        """Show what is next, in words, and how much is done."""
        if self._task is None:
            self._task = self._bar.add_task("", total=total)
            self._bar.start()
        self._bar.update(self._task, description=what, completed=done, total=total)
        if done >= total:
            self._bar.stop()  # two live bars cannot share a terminal

    def say(self, text: str) -> None:
        """Print a result on stdout; the bar of the same terminal is taken away meanwhile.

        A reader that went away (`| head -1`) ends the lines, not the work, which is in files.
        """
        shown = self._bar.live.is_started
        self._bar.stop()
        try:
            print(text, flush=True)
        except BrokenPipeError:
            abandon_streams()
        if shown:
            self._bar.start()

    def line(self) -> str:
        """The same in a plain line; "" before there is anything to tell."""
        if self._task is None:
            return ""
        task = self._bar.tasks[self._task]
        what = f" ({task.description})" if task.description else ""
        total = "" if task.total is None else f" of {task.total:.0f}"
        return f"{task.completed:.0f}{total} {self._unit} after {monotonic() - self._started:.0f} s{what}"


WORTH_TELLING = 1000
"""Passes through a model that take a while."""


class Cost:
    """What a command will cost, on stderr: before it starts in passes, after the first image in time.

    Args:
        passes: forward and backward passes of one image, about.
        images: how many there are.
    """

    def __init__(self, passes: float, images: int) -> None:
        self._images, self._started = images, monotonic()
        self._told = passes * images < WORTH_TELLING
        if not self._told:
            all_of_them = f", {_about(passes * images)} for {images}" if images > 1 else ""
            print(
                f"deepviz: about {_about(passes)} forward and backward passes for one image{all_of_them}",
                file=sys.stderr,
                flush=True,
            )

    def image_done(self) -> None:
        """Tell, of the first image, how long the others will take."""
        seconds = monotonic() - self._started
        if not self._told and self._images > 1:
            left = seconds * (self._images - 1)
            print(
                f"deepviz: the first image took {time_in_words(seconds)}; about {time_in_words(left)} left",
                file=sys.stderr,
                flush=True,
            )
        self._told = True


def _about(count: float) -> str:
    """A count in words, to two digits."""
    return f"{int(float(f'{count:.1e}')):,}"


def time_in_words(seconds: float) -> str:
    """A time in words.

    Example:
        >>> time_in_words(17.3), time_in_words(480), time_in_words(9000)
        ('17 s', '8 min', '2 h 30 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def progress_bar(unit: str = "maps") -> Iterator[Bar]:
    """A bar on stderr if that is a terminal, else a plain line every 30 seconds."""
    console = Console(stderr=True)
    shown = Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,  # results belong on stdout, also where stderr alone is a terminal
        disable=not console.is_terminal,
    )
    bar, over = Bar(shown, unit), Event()

    def tell() -> None:
        while not over.wait(INTERVAL) and not console.is_terminal:
            if text := bar.line():
                print("deepviz:", text, file=sys.stderr, flush=True)

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield bar
    finally:
        over.set()
        teller.join()
        shown.stop()
