"""How errors are shown: one line, outermost context first, the whole chain of causes, never a traceback."""


def chain(error: BaseException) -> str:
    """``outer: middle: cause``, following ``__cause__`` and, where none was given, ``__context__``."""
    texts: list[str] = []
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, ExceptionGroup) and len(current.exceptions) == 1:
            current = current.exceptions[0]
            continue
        text = _own_text(current).replace("\n", " ")
        if not texts or texts[-1] != text:
            texts.append(text)
        suppressed = current.__suppress_context__
        current = current.__cause__ or (None if suppressed else current.__context__)
    return ": ".join(texts)


class FatalError(Exception):
    """Ends a service with one line of chained causes and exit code 1."""


def _own_text(error: BaseException) -> str:
    """What an error says; of the system's errors the words without the number, and the file if one is concerned."""
    if len(error.args) > 1 and isinstance(error.args[0], int) and isinstance(error.args[1], str):
        name = getattr(error, "filename", None)
        shown = name.decode(errors="replace") if isinstance(name, bytes) else name
        return error.args[1] if name is None else f"{error.args[1]}: {shown}"
    return str(error) or type(error).__name__
