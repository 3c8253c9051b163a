"""What is known of machines, models and data sets before anything runs: data in the *.toml files beside this.

Everything here is pure. A machine, model or data set more is an entry in a file (and, for a machine, its name in
`llama_tui.backend.settings.MachineName`, which a test compares).
"""
