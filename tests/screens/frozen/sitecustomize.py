"""The agent's clock stands still while it is started for a screen that is compared with a picture."""

import os
import time

_NOW = float(os.environ["LLAMA_TUI_TEST_NOW"])
time.time = lambda: _NOW
