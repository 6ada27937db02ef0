"""The view of a training that a command shows on stderr; the views are the library's."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from fusedmlp.cli.console import note
from fusedmlp.training.progress import TrainingLines, TrainingTable, fits_table, rich_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from fusedmlp.training.callbacks import Callback


@contextmanager
def progress_view(console: Console) -> Iterator[Callback]:
    """Yield the callback that suits ``console``; leave the terminal in order after an error."""
    if fits_table(console):
        with rich_bar(console) as bar:
            yield TrainingTable(bar)
    else:
        yield TrainingLines(lambda line: note(line, console))
