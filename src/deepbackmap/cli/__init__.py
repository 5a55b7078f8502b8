"""The command line: parses, calls ``api``, and turns errors into one line."""
