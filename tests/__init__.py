"""Tests of llama-tui and the real daemons they use."""
