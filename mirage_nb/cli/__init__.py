"""`mirage-nb`: generate a walk, evaluate the memory, train the bundled model. --debug shows an error whole."""

import typer

from mirage_nb.cli import benchmark, doctor, evaluate, generate, notebooks, train
from mirage_nb.cli.console import OneLine

app = typer.Typer(cls=OneLine, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.command()(generate.generate)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(benchmark.app, name="benchmark")
app.add_typer(notebooks.app, name="notebooks")
app.add_typer(train.app, name="train")
app.command()(doctor.doctor)
