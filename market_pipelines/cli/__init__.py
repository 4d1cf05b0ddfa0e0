"""The command line: every command is a few lines that read its options, call a use case and show what came of it.

What a command means is decided on the use-case floor; here are only options, tables, JSON and exit codes. Modules
with commands are imported when their command is used, so that a short one does not wait for a long one's libraries.
"""
