"""Escapes texts of a report for spreadsheets and LaTeX: the name of an arm, a task or a model may be any text."""

import re

import pandas as pd

# Texts that begin so are formulas to a spreadsheet, by OWASP's page on CSV injection; the last four are full width.
_FORMULA = ("=", "+", "-", "@", "\t", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{letter: f"{{{letter}}}" for letter in "[]*"},  # after \\ and rules they begin an option
}


def as_csv(rows: pd.DataFrame) -> str:
    """Return a table as CSV, with an apostrophe before each text that a spreadsheet would take for a formula.

    Numbers get none, not even negative ones or those that are texts. A carriage return becomes a line feed, since
    pandas does not quote it and a spreadsheet would begin a new row there.
    """
    return rows.map(_no_formula).to_csv(index=False)


def as_latex(text: str) -> str:
    """Return a text such that LaTeX prints it letter by letter, in one line."""
    return "".join(_LATEX.get(letter, letter) for letter in re.sub(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+", " ", text))


def _no_formula(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()
