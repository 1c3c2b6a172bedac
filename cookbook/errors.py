"""The one exception a user ever sees: a sentence that names the file and the fix, printed without a traceback."""


class UserError(Exception):
    """Something the user can mend. The message names what is wrong, where, and what to do."""


class Outdated(UserError):
    """A stage folder that cannot be used as it is; made anew it can.

    Args:
        problem: what is wrong with the folder.
        anew: how to make it anew from Python and from a terminal. A verb of the command line says instead what was
            typed, with `--redo`.
    """

    def __init__(self, problem: str, anew: str):
        super().__init__(f"{problem}. To make it anew: {anew}")
        self.problem = problem
