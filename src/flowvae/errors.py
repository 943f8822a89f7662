"""Errors with a message meant for the user."""

__all__ = ["TrainingError", "UserError"]


class UserError(ValueError):
    """Bad input: one line that names the thing, what was expected and what was got.

    The command line prints it without a traceback and exits with code 2.
    """


class TrainingError(RuntimeError):
    """Training could not go on. The command line prints it and exits with code 1."""
