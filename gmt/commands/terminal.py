"""How the commands write to a terminal."""


def say(line: str) -> None:
    """Prints a line at once, also into a pipe."""
    print(line, flush=True)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns of text, each as wide as its widest cell."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [header, *rows]
    )
