"""What the documents say of the sources and of one another is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer

import glinthawk
from glinthawk.cli.main import app

_SOURCE = Path(glinthawk.__file__).parent
_ROOT = _SOURCE.parents[1]
_README = _ROOT / "README.md"
_ARCHITECTURE = _ROOT / "docs" / "architecture.md"
_DOCS = sorted((_ROOT / "docs").glob("*.md"))
_PAGES = [_ROOT / "research" / "README.md", _README, _ROOT / "CONTRIBUTING.md", *_DOCS]
_FILES = re.compile(r"`([\w./-]+\.py)\b")
_FUNCTIONS = re.compile(r"`([\w/]+\.py): ([\w.]+)`")
_LINKS = re.compile(r"\]\(([^)\s]+)\)")
_OPTIONS = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
#: Of `pytest` and other programs, as documents name them.
_FOREIGN = {"--rounds", "--first-seed"}
_MOST_LINES = 150

each_page = pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))


def _find(name: str) -> list[Path]:
    """As people name a file: from the root, within the package, or by its last part alone."""
    places = [
        _ROOT / name,
        _SOURCE / name,
        *_SOURCE.rglob(name),
        *(_ROOT / "bench").rglob(name),
        *(_ROOT / "research").rglob(name),
    ]
    return [place for place in dict.fromkeys(places) if place.is_file()]


@each_page
def test_files_that_a_page_names_are_there(page: Path) -> None:
    missing = {name for name in _FILES.findall(page.read_text()) if not _find(name)}
    assert not missing


def _defined(tree: ast.Module) -> set[str]:
    """Functions by name, methods with their class before."""
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for owner in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        names |= {f"{owner.name}.{n.name}" for n in owner.body if isinstance(n, ast.FunctionDef)}
    return names


@each_page
def test_functions_that_a_page_names_are_there(page: Path) -> None:
    for file, function in _FUNCTIONS.findall(page.read_text()):
        defined = [_defined(ast.parse(path.read_text())) for path in _find(file)]
        assert any(function in names for names in defined), f"{file}: {function}"


def test_no_two_files_have_one_name() -> None:
    """So that a file can be spoken of."""
    names = [path.stem for path in _SOURCE.rglob("*.py") if not path.stem.startswith("__")]
    assert {name for name in names if names.count(name) > 1} == set()


# Links


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them from headings, and those that are written out."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    written = set(re.findall(r'<a id="([\w-]+)"', text))
    return written | {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
    }


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINKS.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_readme_links_every_page_and_is_short() -> None:
    text = _README.read_text()
    linked = {link.partition("#")[0] for link in _LINKS.findall(text)}
    assert {str(page.relative_to(_ROOT)) for page in _DOCS} <= linked
    assert len(text.splitlines()) <= _MOST_LINES


@pytest.mark.parametrize("figure", sorted(_ROOT.glob("docs/*.svg")), ids=lambda path: path.name)
def test_figures_are_xml_with_a_title(figure: Path) -> None:
    root = ElementTree.fromstring(figure.read_text())
    assert root.find("{http://www.w3.org/2000/svg}title") is not None


# Commands and their options


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """By their words: ("bench", "dense")."""
    yield path, command
    for name, part in getattr(command, "commands", {}).items():
        yield from _commands(part, (*path, name))


_COMMANDS = dict(_commands(typer.main.get_command(app)))


def _options(command: Any) -> set[str]:
    """All that it takes, -m and --model."""
    return {name for option in command.params for name in (*option.opts, *option.secondary_opts)}


def _without_fences(text: str) -> str:
    """Neither figures nor code between fences: arrows look like options there."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", _PAGES[1:], ids=lambda page: str(page.relative_to(_ROOT)))
def test_options_that_a_page_names_are_there(page: Path) -> None:
    known = {"--help"}.union(*(_options(command) for command in _COMMANDS.values()))
    named = set(_OPTIONS.findall(_without_fences(page.read_text())))
    assert named - known - _FOREIGN == set()


def _command_lines(text: str) -> Iterator[list[str]]:
    """Words after `glinthawk`, of indented lines and of code within lines."""
    joined = re.sub(r"\\\n\s*", "", text)
    for line in re.findall(r"^ {4,}glinthawk (.+)$", joined, re.MULTILINE):
        yield line.partition(" #")[0].split()
    for line in re.findall(r"`glinthawk ([^`]+)`", text):
        yield line.split()


@each_page
def test_command_lines_of_a_page_can_be_given(page: Path) -> None:
    for words in _command_lines(page.read_text()):
        paths = [path for path in _COMMANDS if list(path) == words[: len(path)]]
        command = _COMMANDS[max(paths, key=len)]
        assert not getattr(command, "commands", {}) or words == ["bench"], words
        known = _options(command) | {"--help"}
        given = {word for word in words if re.match(r"--?[a-z]", word)}
        assert given <= known, f"{' '.join(words)}: {given - known}"


def test_every_command_is_on_some_page() -> None:
    text = "\n".join(page.read_text() for page in (_README, *_DOCS))
    leaves = [path for path, command in _COMMANDS.items() if not getattr(command, "commands", {})]
    assert [path for path in leaves if f"glinthawk {' '.join(path)}" not in text] == []


# The figure of rooms

#: Packages whose folders are rooms of their own.
_HOUSES = {"tier1", "tier2"}


def _room(module: list[str]) -> str | None:
    """Of a module within the package, by its names; None is the package itself."""
    if not module or module[0].startswith("__"):
        return None
    if module[0] in _HOUSES and (_SOURCE / "/".join(module[:2])).is_dir():
        return "/".join(module[:2])
    return module[0].lstrip("_")


def _imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names, of functions too, but not those that only types need."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom):
            assert not node.level
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        yield from _imported(node)


def _imports() -> dict[str, set[str]]:
    """Which rooms each room imports."""
    edges: dict[str, set[str]] = {}
    for file in _SOURCE.rglob("*.py"):
        room = _room(list(file.relative_to(_SOURCE).with_suffix("").parts))
        names = (name.split(".") for name in _imported(ast.parse(file.read_text())))
        rooms = {_room(name[1:]) for name in names if name[0] == "glinthawk"}
        if room is not None:
            edges.setdefault(room, set()).update(rooms - {None, room})  # type: ignore[arg-type]
    return edges


def _reduced(edges: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Without arrows that follow from others.

    >>> sorted(_reduced({"a": {"b", "c"}, "b": {"c"}}))
    [('a', 'b'), ('b', 'c')]
    """

    def below(room: str) -> set[str]:
        return set().union(*({other} | below(other) for other in edges.get(room, ())))

    return {
        (room, other)
        for room, others in edges.items()
        for other in others
        if not any(other in below(between) for between in others)
    }


def _figure() -> tuple[dict[str, str], set[tuple[str, str]]]:
    """Labels of rooms, and arrows between them."""
    (graph,) = re.findall(
        r"^```mermaid\n(.*?)^```", _ARCHITECTURE.read_text(), re.DOTALL | re.MULTILINE
    )
    labels = dict(re.findall(r'^ +(\w+)\["(.+)"\]$', graph, re.MULTILINE))
    arrows = re.findall(r"^ +(\w+) --> (\w+)$", graph, re.MULTILINE)
    names = {key: label.partition("<br>")[0] for key, label in labels.items()}
    notes = {names[key]: label.partition("<br>")[2] for key, label in labels.items()}
    return notes, {(names[room], names[other]) for room, other in arrows}


def test_the_figure_shows_the_rooms_and_what_they_import() -> None:
    edges = _imports()
    rooms, arrows = _figure()
    assert set(rooms) == set(edges).union(*edges.values())
    assert arrows == _reduced(edges), "make docs/architecture.md say what the code does"


def test_the_figure_has_the_stations_of_the_walk() -> None:
    walk = re.findall(r"^\| (\d+) \| `([\w/.]+): ", _ARCHITECTURE.read_text(), re.MULTILINE)
    assert [int(number) for number, _ in walk] == list(range(1, 11))
    stations: dict[str, list[str]] = {}
    for number, file in walk:
        stations.setdefault(str(_room(file.removesuffix(".py").split("/"))), []).append(number)
    shown = {room: note.split(", ") for room, note in _figure()[0].items() if note}
    assert shown == stations


def test_the_table_has_every_room() -> None:
    table = re.findall(r"^\| `([\w/.]+)`.* \|", _ARCHITECTURE.read_text(), re.MULTILINE)
    named = {room.removesuffix("/").removesuffix(".py") for room in table}
    assert set(_figure()[0]) | {"demo"} == named
