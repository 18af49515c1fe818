"""The errors that a user can cause and can mend."""


class CompanionError(Exception):
    """Says which value is wrong, where it came from, what was expected and what to do.

    The command line prints the message alone and exits with `exit_code`; a notebook shows it as any exception.
    """

    exit_code = 2
