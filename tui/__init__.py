"""Everything a person sees: the Textual app and the command that starts it."""
