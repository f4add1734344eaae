"""The command line: `psd-depth demo | run | replay | synth | inspect | bench | ...`.

Each command is a module with `add_parser`. Only this subpackage prints and decides exit codes.
"""
