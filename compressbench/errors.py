"""The exception whose message is shown to users."""


class UserError(Exception):
    """Bad input: one sentence that names the file and key and says what to do. The command line prints it and exits with 2."""
