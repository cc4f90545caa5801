"""Check the house rules that no linter knows: sizes, parameters, places of imports, broad excepts, leftovers.

Usage: python tools/check_budget.py [PACKAGE]. One line a violation, exit code 1 if there is any. A limit that hurts the
code is wrong: name the place in `EXCEPTIONS`, with a comment on why.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 8

RULES = {
    "file-lines": f"a file has at most {MAX_FILE_LINES} lines",
    "function-lines": f"a function has at most {MAX_FUNCTION_LINES} lines",
    "parameters": f"a function has at most {MAX_PARAMETERS} parameters; then a frozen dataclass",
    "local-import": "imports stand at the top of the file",
    "star-import": "a star import hides where names come from",
    "broad-except": "except names what it expects",
    "leftover": "unfinished work belongs in the issue tracker",
    "assert": "validation raises an error of kdcache.core.errors",
    "syntax": "the file is Python",
}

LOCAL_IMPORT_FILES = frozenset({"cli.py"})
"""Command bodies import what they run, so that `--help` loads no torch."""

LOCAL_IMPORT_PLACES = frozenset(
    {("__init__.py", "__getattr__"), ("training/start.py", "start"), ("training/start.py", "build")}
)
"""The package's lazy names, so that `import kdcache` loads no torch; DeepSpeed, which is loaded where it trains."""

BROAD_EXCEPT_PLACES = frozenset({("ending.py", "end"), ("training/ahead.py", "_run")})
"""Where any error becomes one line and an exit code, and where a thread hands any error to its reader."""

EXCEPTIONS: dict[tuple[str, str], frozenset[str]] = {
    # The call's eight, which stand in docs and tutorials, and the dtype that only a head has.
    ("losses/objective.py", "Objective.from_hidden"): frozenset({"parameters"}),
    # Kernels that share their parts, and are read side by side with the formulas.
    ("losses/gpu/loss_kernels.py", ""): frozenset({"file-lines"}),
    ("losses/gpu/selection_kernels.py", ""): frozenset({"file-lines"}),
}
"""(file relative to the package, qualified function name or "" for the file) -> rules that do not hold there."""

KERNEL_DECORATOR = "triton.jit"
"""A kernel is given pointers, strides and sizes one by one, and its body is one program: a part of it that became a
function would be handed its twenty numbers. So the limits of functions do not hold for kernels."""

LEFTOVER = re.compile(r"\b(TODO|FIXME|XXX)\b")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken rule at one place.

    Attributes:
        file: relative to the package, with forward slashes.
        line: from 1.
        place: qualified name of the function, or empty for the file.
        rule: a key of `RULES`.
        found: what stands there.
    """

    file: str
    line: int
    place: str
    rule: str
    found: str

    def __str__(self) -> str:
        where = f" in {self.place}" if self.place else ""
        return f"{self.file}:{self.line}: {self.rule}: {self.found}{where}; {RULES[self.rule]}"


def check_source(source: str, file: str) -> list[Violation]:
    """All violations of one file, in line order.

    Args:
        source: the file's text.
        file: its path relative to the package, with forward slashes.

    Example:
        >>> [violation.rule for violation in check_source("assert x", "a.py")]
        ['assert']
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        return [Violation(file=file, line=error.lineno or 1, place="", rule="syntax", found=error.msg)]
    found = [*_check_lines(source, file), *_check_comments(source, file), *_check_node(tree, file, ())]
    kept = (v for v in found if v.rule not in EXCEPTIONS.get((v.file, v.place), frozenset()))
    return sorted(kept, key=lambda violation: (violation.line, violation.rule))


def check_package(package: Path) -> list[Violation]:
    """All violations of all Python files below `package`, by file and line."""
    found = []
    for path in sorted(package.rglob("*.py")):
        found += check_source(path.read_text(encoding="utf-8"), path.relative_to(package).as_posix())
    return found


def _check_lines(source: str, file: str) -> Iterator[Violation]:
    count = len(source.splitlines())
    if count > MAX_FILE_LINES:
        yield Violation(file=file, line=MAX_FILE_LINES + 1, place="", rule="file-lines", found=f"{count} lines")


def _check_comments(source: str, file: str) -> Iterator[Violation]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        word = LEFTOVER.search(token.string) if token.type in (tokenize.COMMENT, tokenize.STRING) else None
        if word:
            yield Violation(file=file, line=token.start[0], place="", rule="leftover", found=word.group())


def _check_node(node: ast.AST, file: str, scope: tuple[str, ...]) -> Iterator[Violation]:
    """Violations of `node` and all below it; `scope` holds the names of the functions and classes around it."""
    place = ".".join(scope)
    for rule, found in _broken(node, file, place):
        yield Violation(file=file, line=getattr(node, "lineno", 1), place=place, rule=rule, found=found)
    inner = scope
    if isinstance(node, Function | ast.ClassDef):
        inner = (*scope, node.name)
    if isinstance(node, Function):
        for rule, found in _broken_function(node):
            yield Violation(file=file, line=node.lineno, place=".".join(inner), rule=rule, found=found)
    for child in ast.iter_child_nodes(node):
        yield from _check_node(child, file, inner)


def _broken(node: ast.AST, file: str, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Assert):
        yield "assert", "assert"
    if isinstance(node, ast.ImportFrom) and any(name.name == "*" for name in node.names):
        yield "star-import", f"from {node.module} import *"
    if isinstance(node, ast.Import | ast.ImportFrom) and place:
        allowed = file in LOCAL_IMPORT_FILES or (file, place) in LOCAL_IMPORT_PLACES
        if not allowed:
            yield "local-import", ast.unparse(node)
    if isinstance(node, ast.ExceptHandler) and (file, place) not in BROAD_EXCEPT_PLACES:
        yield from (("broad-except", caught) for caught in _too_broad(node))


def _too_broad(node: ast.ExceptHandler) -> Iterator[str]:
    """What is too broad in an except clause; an `except BaseException` that ends in a bare `raise` only cleans up."""
    if node.type is None:
        yield "bare except"
        return
    last = node.body[-1]
    cleans_up = isinstance(last, ast.Raise) and last.exc is None
    for part in node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]:
        name = ast.unparse(part).rpartition(".")[2]
        if name == "Exception" or (name == "BaseException" and not cleans_up):
            yield f"except {name}"


def _broken_function(node: Function) -> Iterator[tuple[str, str]]:
    """Size and parameters, but of kernels; `self` and `cls` do not count."""
    if any(ast.unparse(decorator).startswith(KERNEL_DECORATOR) for decorator in node.decorator_list):
        return
    count = (node.end_lineno or node.lineno) - node.lineno + 1
    if count > MAX_FUNCTION_LINES:
        yield "function-lines", f"{count} lines"
    arguments = node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    names += [a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None]
    if names[:1] in (["self"], ["cls"]):
        names = names[1:]
    if len(names) > MAX_PARAMETERS:
        yield "parameters", f"{len(names)} parameters"


def main(arguments: list[str]) -> int:
    """Print the violations of the package and return the exit code."""
    package = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1] / "kdcache"
    if not package.is_dir():
        print(f"{package} is not a folder; give the package's folder")
        return 2
    found = check_package(package)
    for violation in found:
        print(f"{package.name}/{violation}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
