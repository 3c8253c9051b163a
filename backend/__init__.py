"""Everything that also serves the plain command line; never imports Textual."""
