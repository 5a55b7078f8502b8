"""The one error that stands for bad input."""


class InputError(Exception):
    """A file, option or structure that the user gave is wrong.

    The message is one sentence that names the file (and line or molecule), what was
    expected and what was found. The command line prints it and exits with code 2;
    anything else that is raised is a bug and shows its traceback.
    """


class Stopped(InputError):
    """A run cannot go on, though its inputs are right as they are: the disk is full, workers are
    lost, a result is not to be written. What is done of it is worth keeping.
    """


class Notice(UserWarning):
    """Something that the user should know and that stops nothing, in one sentence.

    The command line shows it as one line on standard error.
    """
