"""Numbers with their nouns, for messages; no other text is built here."""


def counted(count: int, noun: str) -> str:
    """Return a number with its noun in the right number: ``1 row``, ``1,797 rows``, ``2 classes``.

    Parameters
    ----------
    noun
        In the singular, with a regular plural.
    """
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}{'es' if noun.endswith('s') else 's'}"
