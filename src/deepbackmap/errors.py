"""The error that stands for bad input, one or several of them."""


class InputError(Exception):
    """A file, option or structure that the user gave is wrong.

    The message is one sentence that names the file (and line or molecule), what was
    expected and what was found. The command line prints it and exits with code 2;
    anything else that is raised is a bug and shows its traceback.
    """


class InputErrors(InputError):
    """Several mistakes of one input, said at once."""

    def __init__(
        self, head: str, problems: tuple[str, ...], more: str = "", ways: tuple[str, ...] = ()
    ) -> None:
        """Puts them below each other.

        Args:
            head: a sentence about all of them, without its colon.
            problems: a sentence each.
            more: lines to be copied, below all of them.
            ways: what can be done, a sentence each.
        """
        lines = [f"{head}:", *(f"  {line}" for line in (*problems, *ways))]
        super().__init__("\n".join([*lines, more] if more else lines))
        self.problems = problems
        self.more = more
        self.ways = ways


def together(head: str, errors: list[InputError]) -> InputError:
    """One error for several: the only one as it is, equal ones once.

    Args:
        head: a sentence about all of them.
        errors: at least one; what follows the first line of a message is put below all of them.
    """
    found: dict[str, str] = {}
    for error in errors:
        if isinstance(error, InputErrors):
            found |= dict.fromkeys(error.problems, "")
            found |= {"": error.more} if error.more else {}
            continue
        sentence, _, more = str(error).partition("\n")
        found[sentence] = more
    blocks = list(dict.fromkeys(more for more in found.values() if more))
    sentences = tuple(sentence for sentence in found if sentence)
    if len(sentences) == 1:
        return InputError("\n".join([*sentences, *blocks]))
    return InputErrors(head.format(len(sentences)), sentences, "\n".join(blocks))


class Notice(UserWarning):
    """Something that the user should know and that stops nothing, in one sentence.

    The command line shows it as one line on standard error.
    """
