"""How the screen does beside bare Textual and three peers, measured in one run: `python -m tests.bench.screens`."""
