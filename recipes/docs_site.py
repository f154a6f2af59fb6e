"""Hooks of the documentation site (`make docs`, mkdocs.yml).

README is its first page. Each file of the repository that a page links to, such as a method's yaml, is a page of the
site too, so that the site leads nowhere else. The pages on the command line and on gmt.masking are made from the code.
"""

import posixpath
import subprocess
import sys
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parents[1]))
from gmt.commands.parsers import make_parser, sub_parsers
from recipes.doc_links import is_of_the_repository, links, replaced, resolved

ROOT = Path(__file__).parents[1]
_HOME = {"README.md": "index.md", "docs/README.md": "all_pages.md", "CHANGELOG.md": "changelog.md"}
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".c": "c", ".toml": "toml", ".cff": "yaml"}
_WIDE = "---\nhide: [navigation, toc]\n---\n\n"
_MASKING = """\
# gmt.masking

The mask for a training loop of your own; [the guide](docs/masking.md) begins with two lines.

::: gmt.masking
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside of docs/, or that are made from the code."""
    files.remove(files.src_uris["README.md"])
    made = {"api.md": _MASKING, "commands.md": _commands()}
    for path in _linked():
        made[_place(path)] = _page(path)
    for place, content in made.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to their pages."""
    place = page.file.src_uri
    origin = next((path for path in _linked() if _place(path) == place), f"docs/{place}")
    if place == "api.md":
        origin = "README.md"  # its links are written as README's

    def on_site(target: str) -> str:
        if not is_of_the_repository(target):
            return target
        path, anchor = resolved(origin, target)
        link = posixpath.relpath(_place(path), posixpath.dirname(place) or ".")
        return f"{link}#{anchor}" if anchor else link

    return replaced(markdown, on_site)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that loads scripts, styles, fonts or pictures from elsewhere."""
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        for begin in ('src="http', 'src="//', 'rel="stylesheet" href="http', 'rel="preconnect"'):
            if begin in text:
                raise PluginError(f"{path} loads something from elsewhere: {begin}...")


@cache
def _linked() -> list[str]:
    """Return the files outside of docs/ that pages link to, and those that these link to; README among them."""
    found: list[str] = []
    to_do = [*_HOME, *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
    while to_do:
        page = to_do.pop()
        if page in found:
            continue
        found.append(page)
        targets = links(_text(page)) if page.endswith(".md") or (ROOT / page).is_dir() else []
        to_do += [resolved(page, target)[0] for target in targets if is_of_the_repository(target)]
    return [path for path in found if path in _HOME or not path.startswith("docs/")]


def _place(path: str) -> str:
    """Return where a file of the repository stands in the site's sources."""
    if path in _HOME:
        return _HOME[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}" if path.endswith(".md") else f"source/{path}.md"


def _page(path: str) -> str:
    """Return a file as a page: Markdown as it is, everything else as code."""
    text = _text(path)
    if path.endswith(".md") or (ROOT / path).is_dir():
        return text
    return f"{_WIDE}# {path}\n\n```{_LANGUAGES.get(Path(path).suffix, 'text')}\n{text.rstrip()}\n```\n"


def _text(path: str) -> str:
    """Return the text of a file; of a folder, a list of its files."""
    file = ROOT / path
    if file.is_dir():
        names = sorted(each.name for each in file.iterdir() if each.is_file())
        return "\n".join([f"# {path}", "", *(f"- [{name}]({file.name}/{name})" for name in names)])
    if not file.is_file():
        raise PluginError(f"a page links to {path}, which is neither a file nor a folder")
    return file.read_text(encoding="utf-8")


def _commands() -> str:
    """Return the help of the commands as a page."""
    parts = [
        "---\nhide: [navigation]\n---\n\n# Commands and settings",
        "What `gmt COMMAND --help` prints; `gmt help TOPIC` explains one setting, one choice or one group.",
        _help("--help"),
    ]
    parts += [f"## gmt {name}\n\n{_help(name, '--help')}" for name in sub_parsers(make_parser())]
    return "\n\n".join(parts) + "\n"


def _help(*words: str) -> str:
    command = [sys.executable, "-m", "gmt", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True)
    return f"```text\n{done.stdout.rstrip()}\n```"
