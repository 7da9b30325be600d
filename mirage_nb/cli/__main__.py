from mirage_nb.cli import app

app()
