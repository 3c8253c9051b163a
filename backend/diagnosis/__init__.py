"""What went wrong, and what to do: a catalogue of failure signatures, and how it is matched."""
