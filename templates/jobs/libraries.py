"""Keeps the libraries' bars and notices to programmers out of the logs that people read."""

from __future__ import annotations

import warnings


def quiet_libraries() -> None:
    """No progress bars (a log file is no terminal) and no warnings about the libraries' own future."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", category=UserWarning, module="peft")
