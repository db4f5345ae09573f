"""A progress bar with the remaining time for loops over a data set."""

from rich import progress as rich_progress
from rich.console import Console


def track(sequence, description, show=True):
    """The items of `sequence` (with a length), while a bar on the error stream shows the rest."""
    columns = (
        *rich_progress.Progress.get_default_columns(),
        rich_progress.MofNCompleteColumn(),
    )
    console = Console(stderr=True)
    with rich_progress.Progress(*columns, console=console, disable=not show, transient=True) as bar:
        yield from bar.track(sequence, total=len(sequence), description=description)
