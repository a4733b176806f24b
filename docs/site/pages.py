"""MkDocs hook: the pages read as they do in the repository, and those outside of docs/ come into the site.

A page of docs/ keeps its name. Whatever a page links to outside of docs/ comes along under its path in the repository:
Markdown as a page, pictures as they are, other text (code, configurations, results) as a page that shows it. Links are
turned accordingly; one that leads nowhere ends the build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
# Fenced blocks and code between backticks are matched first and left as they are.
CODE_OR_LINK = re.compile(r"^ *```.*?^ *```$|`[^`]*`|(?<=\]\()(?P<target>[^()\s]+)(?=\))", re.DOTALL | re.MULTILINE)
CODE_OR_LIST = re.compile(
    r"^ *```.*?^ *```$|(?P<before>^(?! *(?:[-*]|\d+\.) )\S[^\n]*\n)(?=(?:[-*]|\d+\.) )", re.DOTALL | re.MULTILINE
)
PICTURES = {".svg", ".png"}
LANGUAGES = {".py": "python", ".json": "json", ".yaml": "yaml", ".cpp": "cpp", ".h": "cpp", ".toml": "toml"}
SITE_OF = {"README.md": "readme.md"}  # docs/README.md is the start page


def site_path(path: str) -> str:
    """Where a file of the repository stands among the sources of the site."""
    if path.startswith("docs/"):
        return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))  # notebooks.py makes the page
    if Path(path).suffix == ".md" or Path(path).suffix in PICTURES:
        return SITE_OF.get(path, path)
    return f"{path}.md"


def repository_path(site: str) -> str:
    """The file of the repository that a source of the site comes from."""
    for path, name in SITE_OF.items():
        if name == site:
            return path
    for name in (site, site.removesuffix(".md") + ".ipynb"):
        if (ROOT / "docs" / name).is_file():
            return f"docs/{name}"
    return site if (ROOT / site).is_file() else site.removesuffix(".md")


def targets_of(text: str) -> list[str]:
    """What the links of a page lead to, without anchors; other sites and the page itself are left out."""
    found = [match["target"] for match in CODE_OR_LINK.finditer(text) if match["target"]]
    paths = [target.partition("#")[0] for target in found if not re.match(r"[a-z]+:", target)]
    return [path for path in paths if path]


def resolve(page: str, target: str) -> str:
    """A link of a page, as a path in the repository."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
    if not (ROOT / path).is_file():
        raise PluginError(f"{page}: the link {target} leads to no file")
    return path


def text_of(path: str) -> str:
    """The Markdown of a page."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    language = LANGUAGES.get(Path(path).suffix, "text")
    return f"---\nsearch: {{exclude: true}}\n---\n# `{path}`\n\n```{language}\n{text.rstrip()}\n```\n"


def on_files(files: Files, config) -> Files:
    """Follow the links from page to page, and add the files outside of docs/ that they lead to."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    waiting = [page for page in waiting if (ROOT / page).is_file()]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        if not page.endswith(".md"):
            continue
        for target in targets_of((ROOT / page).read_text(encoding="utf-8")):
            path = resolve(page, target)
            if path in seen:
                continue
            seen.add(path)
            waiting.append(path)
            if path.startswith("docs/"):
                continue
            place = site_path(path)
            if Path(path).suffix in PICTURES:
                files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
            else:
                files.append(File.generated(config, place, content=text_of(path)))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Turn the links of a page to where their files stand in the site; begin lists as GitHub does."""
    here = page.file.src_uri
    origin = repository_path(here)

    def turned(match: re.Match) -> str:
        target = match["target"]
        if target is None or target.startswith("#") or re.match(r"[a-z]+:", target):
            return match[0]
        path, mark, anchor = target.partition("#")
        folder = posixpath.dirname(here)
        own = origin.endswith(".ipynb") and path.startswith(Path(origin).stem)  # the notebook itself, and its pictures
        if own or not (ROOT / origin).is_file():  # a page made for the site is right already
            return match[0]
        return posixpath.relpath(site_path(resolve(origin, path)), folder or ".") + mark + anchor

    # GitHub begins a list right after a paragraph; Python-Markdown wants an empty line there.
    markdown = CODE_OR_LIST.sub(lambda match: f"{match[0]}\n" if match["before"] else match[0], markdown)
    return CODE_OR_LINK.sub(turned, markdown)
