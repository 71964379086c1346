"""How errors are shown: one line, outermost context first, the whole chain of causes, never a traceback."""


def chain(error: BaseException) -> str:
    """``outer: middle: cause``, following ``__cause__`` and, where none was given, ``__context__``."""
    texts: list[str] = []
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, ExceptionGroup) and len(current.exceptions) == 1:
            current = current.exceptions[0]
            continue
        text = (str(current) or type(current).__name__).replace("\n", " ")
        if not texts or texts[-1] != text:
            texts.append(text)
        suppressed = current.__suppress_context__
        current = current.__cause__ or (None if suppressed else current.__context__)
    return ": ".join(texts)


class FatalError(Exception):
    """Ends a service with one line of chained causes and exit code 1."""
