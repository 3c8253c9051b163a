"""The command line: everything that the screen can do, for scripts and for those who prefer it."""
