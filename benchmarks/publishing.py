"""Parses the options of a benchmark's script, and prints its result with the machine and the command."""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch


def script_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the option `--out`; the script's docstring is the description."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a Markdown file for the result")
    return parser


def machine() -> str:
    """Return the machine in words: cores, GPU, system and torch."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.processor()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    cores = f"{torch.get_num_threads()} of {os.cpu_count()} cores {model}"
    return f"{cores}{gpu}, {platform.system()}, torch {torch.__version__}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [" | ".join(row) for row in (head, ["---"] + ["---:"] * (len(head) - 1), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def publish(title: str, parts: Sequence[str], out: Path | None) -> None:
    """Print the parts below a title, and write them to `out` unless it is None."""
    command = " ".join(["python", *sys.argv])
    text = "\n\n".join([f"# {title}", f"Machine: {machine()}.\nCommand: `{command}`.", *parts]) + "\n"
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
