"""The command line. A command parses its arguments, calls the module that does the work, and prints."""
