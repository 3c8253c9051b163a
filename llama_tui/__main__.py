"""``python -m llama_tui`` is the ``llama-tui`` command."""

from llama_tui.tui.main import main

if __name__ == "__main__":
    main()
