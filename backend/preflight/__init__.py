"""What can be known before anything is launched: each thing that a run needs is looked at, told in words, with its cure.

`checks.run_checks` is the way in. The modules named *_probe are programs that are sent to the host: standard library
only, Python 3.8.
"""
