"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake in the user's input.

    The message is one clear sentence that names the file, line, key or option, and a hint. Entry points print it
    without a traceback and exit with code 2.
    """
