"""The one exception a user ever sees: a sentence that names the file and the fix, printed without a traceback."""


class UserError(Exception):
    """Something the user can mend. The message names what is wrong, where, and what to do."""
