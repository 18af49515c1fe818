"""The library's pages: every public function and class with its docstring, read from the sources, never imported.

Docstrings are plain prose; they are printed as Markdown after everything that Markdown would take for markup, code
spans aside, has been escaped. So no docstring can break the book.
"""

import ast
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

GROUPS = {
    "": "Foundations",
    "data": "Data",
    "models": "Models",
    "attacks": "Attacks",
    "defenses": "Defences",
    "studies": "Studies",
    "press": "The press",
}
"""Titles of the folders of lib/companion; a folder that is not named here has its name with a capital letter."""

PRESS = ("press.notebook", "press.plots")
"""The modules of the press that chapters call; the others are listed but not spelled out."""


@dataclass(frozen=True)
class Member:
    """A public function, class, method or property."""

    name: str
    kind: str  # function, class, method, property
    signature: str
    docstring: str
    parameters: tuple[str, ...]
    first_line: int
    last_line: int
    members: tuple["Member", ...] = ()


@dataclass(frozen=True)
class Module:
    """A module of the library; `name` begins with companion."""

    name: str
    path: str
    docstring: str
    members: tuple[Member, ...]

    @property
    def folder(self) -> str:
        return self.name.split(".")[1] if self.name.count(".") > 1 else ""

    @property
    def page(self) -> str:
        """The page that documents it, without ending."""
        return f"api/{self.name.removeprefix('companion.').replace('.', '-').replace('_', '-')}"

    @property
    def sentence(self) -> str:
        """The first sentence of its docstring."""
        first = " ".join(self.docstring.split("\n\n")[0].split())
        return re.split(r"(?<=\w\w[.;])\s|(?<=[)`\]][.;])\s", first)[0].rstrip(".;") + "." if first else ""


@dataclass(frozen=True)
class Library:
    """All modules, where their members are documented, and the docstrings of their folders' packages."""

    modules: tuple[Module, ...]
    places: Mapping[str, Module] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def link(self, name: str) -> str:
        """Return a MyST link to the documentation of a member."""
        return f"{{py:obj}}`{name.rpartition('.')[2]} <{name}>`"

    def spelled_out(self) -> list[Module]:
        """Return the modules that have a page."""
        return [module for module in self.modules if _has_page(module)]


def _has_page(module: Module) -> bool:
    return bool(module.members) and (module.folder != "press" or module.name.removeprefix("companion.") in PRESS)


def read_library(root: Path) -> Library:
    """Return the modules of the folder lib/companion, by folder and name."""
    modules = []
    for path in sorted(root.rglob("*.py")):
        if path.name == "__init__.py" or "__pycache__" in path.parts:
            continue
        inner = path.relative_to(root).with_suffix("")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = ".".join(("companion", *inner.parts))
        members = tuple(member for node in tree.body if (member := _member(node)))
        modules.append(Module(name, f"lib/companion/{inner.as_posix()}.py", ast.get_docstring(tree) or "", members))
    order = [folder for folder in GROUPS if folder != "press"]
    modules.sort(key=lambda m: (m.folder == "press", order.index(m.folder) if m.folder in order else 99, m.name))
    packages = {path.parent.name: path for path in root.glob("*/__init__.py")}
    folders = {name: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for name, path in packages.items()}
    folders = {"": "What all chapters share.", **{name: said or "" for name, said in folders.items()}}
    places = {f"{m.name}.{member.name}": m for m in modules if _has_page(m) for member in m.members}
    return Library(tuple(modules), places, folders)


def used_names(code: str) -> list[str]:
    """Return the dotted names under `companion` that a piece of code uses, in order of their first use.

    >>> used_names("from companion import metrics as m; from companion.training import train; m.accuracy(train(1))")
    ['companion.metrics.accuracy', 'companion.training.train']
    """
    aliases: dict[str, str] = {}
    found: dict[str, None] = {}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "companion":
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias for alias in node.names if alias.name.split(".")[0] == "companion"]
            aliases |= {alias.asname or "companion": alias.name if alias.asname else "companion" for alias in names}
    for node in ast.walk(ast.parse(code)):
        dotted = _dotted(node)
        if dotted and dotted[0] in aliases:
            found.setdefault(".".join([aliases[dotted[0]], *dotted[1:]]))
    return list(found)


def _dotted(node: ast.AST) -> list[str] | None:
    """Return the parts of `a.b.c`, or None for anything else."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return [*inner, node.attr] if inner else None
    return None


def module_page(module: Module, used: Mapping[str, Iterable[tuple[str, str]]], source: str) -> str:
    """Return the page of a module in MyST.

    used: (page, title) of the chapters that use a member, by dotted name; source: the address of its folder of
    sources, to which the path and lines are added.
    """
    title = module.name.removeprefix("companion.")
    current = f"```{{py:currentmodule}} {module.name}\n```"
    body = [f"# {_escape(title)}", to_markdown(module.docstring, ()), f"[Source]({source}/{module.path})", current]
    for member in module.members:
        body.append(_member_block(module, member, used.get(f"{module.name}.{member.name}", ()), source))
    return "\n\n".join(body) + "\n"


def _member_block(module: Module, member: Member, used: Iterable[tuple[str, str]], source: str) -> str:
    first, last = member.first_line, member.last_line
    lines = f"[Source, lines {first} to {last}]({source}/{module.path}#L{first}-L{last})"
    chapters = ", ".join(f"[{title}](../{page})" for page, title in used)
    parts = [to_markdown(member.docstring, member.parameters)]
    for inner in member.members:
        head = f":::{{py:{inner.kind}}} {inner.name}{inner.signature}"
        parts.append("\n".join([head, "", to_markdown(inner.docstring, inner.parameters), ":::"]))
    parts.append(f"{lines}{'. Used in: ' + chapters if chapters else ''}")
    head = f"::::{{py:{member.kind}}} {member.name}{member.signature}"
    return "\n".join([head, "", "\n\n".join(parts), "::::"])


def folder_pages(library: Library) -> dict[str, str]:
    """Return the page of the library and one a folder, in MyST, by page name without ending."""
    groups: dict[str, list[Module]] = {}
    for module in library.modules:
        groups.setdefault(module.folder, []).append(module)
    pages, rows = {}, []
    for folder, modules in groups.items():
        title, page = folder_title(folder), folder_page(folder)
        said = to_markdown(library.folders.get(folder, ""), ())
        pages[page] = "\n\n".join([f"# {title}", said, _table(modules)]) + "\n"
        rows.append(f"| [{title}]({page.removeprefix('api/')}.md) | {said} | {len(modules)} |")
    intro = "What the chapters call. Science here knows nothing of notebooks, files or how a figure looks."
    table = "\n".join(["| folder | what is in it | modules |", "|---|---|---|", *rows])
    return {"api/index": f"# The library\n\n{intro}\n\n{table}\n", **pages}


def folder_title(folder: str) -> str:
    """Return the title of a folder of lib/companion; "" stands for the modules outside of any."""
    return GROUPS.get(folder, folder.capitalize())


def folder_page(folder: str) -> str:
    """Return the page of a folder, without ending."""
    return f"api/{folder or 'foundations'}"


def _table(modules: Iterable[Module]) -> str:
    lines = ["| module | what it is |", "|---|---|"]
    for module in modules:
        name = f"`{module.name.removeprefix('companion.')}`"
        name = f"[{name}]({module.page.removeprefix('api/')}.md)" if _has_page(module) else name
        lines.append(f"| {name} | {_escape(module.sentence).replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def to_markdown(docstring: str, parameters: Iterable[str]) -> str:
    """Return a docstring as Markdown: paragraphs, lists, tables and examples stay, everything else is plain text.

    parameters: names of the arguments; a paragraph whose lines begin with them ("images: ...") becomes a list.
    """
    text = re.sub(r"\n(?=(Raises|Returns|Source:) ?)", "\n\n", inspect.cleandoc(docstring or ""))
    blocks = re.split(r"\n\s*\n", text)
    return "\n\n".join(_block(block, tuple(parameters)) for block in blocks if block.strip())


def _block(block: str, parameters: tuple[str, ...]) -> str:
    lines = block.splitlines()
    if lines[0].lstrip().startswith(">>>"):
        return "\n".join(["```pycon", *lines, "```"])
    if lines[0].startswith("    ") or lines[0].rstrip().endswith("::"):
        return "\n".join(["```text", inspect.cleandoc("\n" + block), "```"])
    text = "\n".join(line if re.fullmatch(r"\s*\|?[-:| ]+\|?\s*", line) else _escape(line) for line in lines)
    return _arguments(text, parameters) if parameters else text


def _arguments(text: str, parameters: tuple[str, ...]) -> str:
    """Turn "images: ...; labels: ..." into a list if what stands before the colons are arguments."""
    name = "|".join(re.escape(one) for one in sorted(parameters, key=len, reverse=True))
    start = re.compile(rf"(?:^|(?<=[;.])\s+|\n)((?:{name})(?:, (?:{name}))*): ")
    pieces = start.split(text)
    if len(pieces) < 3:
        return text
    pairs = zip(pieces[1::2], pieces[2::2], strict=True)
    items = ["\n  ".join(f"- **{names}**: {said.strip().rstrip(';')}".splitlines()) for names, said in pairs]
    before = pieces[0].strip()
    return (f"{before}\n\n" if before else "") + "\n".join(items)


def _escape(line: str) -> str:
    """Escape what Markdown would take for markup, outside of code spans."""
    pieces = re.split(r"(``.+?``|`[^`]+`)", line)
    return "".join(piece if index % 2 else _escape_text(piece) for index, piece in enumerate(pieces))


def _escape_text(text: str) -> str:
    bullet = re.match(r"\s*[-*] ", text)
    head, text = (bullet.group(), text[bullet.end() :]) if bullet else ("", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return head + re.sub(r"([\\*$\[\]{}#~^]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def _member(node: ast.AST) -> Member | None:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and ast.get_docstring(node):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        signature = f"({ast.unparse(node.args)}){returns}"
        return _build(node, "function", signature, _argument_names(node.args))
    if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and ast.get_docstring(node):
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
        init = next((i for i in node.body if isinstance(i, ast.FunctionDef) and i.name == "__init__"), None)
        signature = f"({_without_self(init.args)})" if init else f"({', '.join(map(_field, fields))})" if fields else ""
        names = _argument_names(init.args) if init else tuple(item.target.id for item in fields)
        return _build(node, "class", signature, names, tuple(filter(None, map(_method, node.body))))
    return None


def _method(node: ast.AST) -> Member | None:
    member = _member(node) if isinstance(node, ast.FunctionDef) else None
    if member is None:
        return None
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if decorators & {"property", "cached_property"}:
        return _build(node, "property", "", ())
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    bound = not decorators & {"staticmethod"}
    arguments = _without_self(node.args) if bound else ast.unparse(node.args)
    return _build(node, "method", f"({arguments}){returns}", _argument_names(node.args))


def _build(node, kind: str, signature: str, parameters: tuple[str, ...], members: tuple[Member, ...] = ()) -> Member:
    signature = " ".join(signature.split())
    lines = (node.lineno, node.end_lineno or node.lineno)
    return Member(node.name, kind, signature, ast.get_docstring(node) or "", parameters, *lines, members)


def _without_self(arguments: ast.arguments) -> str:
    return re.sub(r"^(self|cls)(, |$)", "", ast.unparse(arguments))


def _argument_names(arguments: ast.arguments) -> tuple[str, ...]:
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return tuple(argument.arg for argument in every if argument.arg not in ("self", "cls"))


def _field(item: ast.AnnAssign) -> str:
    default = f"={ast.unparse(item.value)}" if item.value else ""
    return f"{item.target.id}: {ast.unparse(item.annotation)}{default}"
