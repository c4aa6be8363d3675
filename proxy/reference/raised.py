"""Which errors the source makes: every call of `WeirError`, and of functions that pass on what they are given.

Rules: read, never run. A value that isn't written in the source is `…` within a text, and otherwise left out. A
function whose parameter becomes the code, the status or the message of an error makes one wherever it is called.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from itertools import product
from typing import NamedTuple

FIELDS = ("status", "message", "type", "code")
_MADE = "proxy.errors.WeirError"
_ANY = "…"
_NONE = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])


class Raised(NamedTuple):
    """One error. `status` is empty where it isn't written in the source."""

    code: str
    status: str
    type: str
    message: str


class _Maker(NamedTuple):
    """What makes an error: its parameters in order with their defaults, and what becomes of them."""

    parameters: tuple[str, ...]
    defaults: Mapping[str, ast.expr]
    fields: Mapping[str, ast.expr]


class _Part(NamedTuple):
    """A function or an assignment, with what it calls."""

    module: str
    node: ast.AST
    calls: list[ast.Call]


def raised(sources: Mapping[str, str]) -> set[Raised]:
    """All that these modules make. Those that neither name the class nor a module that does aren't read."""
    naming = [name for name, text in sources.items() if "WeirError" in text]
    using = [f"from {name} import" for name in naming]
    read = {name: text for name, text in sources.items() if any(one in text for one in ("WeirError", *using))}
    return _Program(read).errors()


class _Program:
    def __init__(self, sources: Mapping[str, str]) -> None:
        self.trees = {name: ast.parse(text) for name, text in sources.items()}
        self.parts = [part for name, tree in self.trees.items() for part in _parts(name, tree)]
        self.names = {name: dict(_names(name, tree)) for name, tree in self.trees.items()}
        self.constants = {
            f"{module}.{name}": value for module, tree in self.trees.items() for name, value in _constants(tree)
        }
        names: list[ast.expr] = [ast.Name(field) for field in FIELDS]
        default = {"type": ast.Constant("invalid_request_error"), "code": ast.Constant(None)}
        self.makers = {_MADE: _Maker(FIELDS[:2], default, dict(zip(FIELDS, names, strict=True)))}

    def errors(self) -> set[Raised]:
        """Until no further function turns out to make some."""
        while True:
            before, found = len(self.makers), set[Raised]()
            for part in self.parts:
                found |= set(self.within(part))
            for module, tree in self.trees.items():
                found |= {*self.tabled(module), *_set_later(tree)}
            if len(self.makers) == before:
                return found

    def within(self, part: _Part) -> Iterator[Raised]:
        """What one function or assignment makes itself; a function that is given a part of it becomes a maker."""
        module, function = part.module, part.node
        arguments = getattr(function, "args", _NONE)
        ordered = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
        given = {*ordered, *(one.arg for one in arguments.kwonlyargs)}
        for call in part.calls:
            if (maker := self.maker(module, call.func)) is None:
                continue
            fields = _filled(maker, call)
            local = {name: value for name, value in _assigned(function, call.lineno) if name not in given}
            taken = {name: value for name, value in fields.items() if isinstance(value, ast.Name) and value.id in given}
            if taken and isinstance(function, ast.FunctionDef):
                known = {name: _either(self.texts(module, value, local)) for name, value in fields.items()}
                made = _Maker(tuple(ordered), _defaults(arguments), known | taken)
                self.makers.setdefault(f"{module}.{function.name}", made)
            yield from self.told(module, fields, local)

    def tabled(self, module: str) -> Iterator[Raised]:
        """Tables of (status, code, message), of which one is picked."""
        for name, value in _constants(self.trees[module]):
            rows = value.values if isinstance(value, ast.Dict) and name.startswith("_") else []
            for row in rows:
                texts = [one.value for one in getattr(row, "elts", ()) if isinstance(one, ast.Constant)]
                if isinstance(row, ast.Tuple) and [type(text) for text in texts] == [int, str, str]:
                    yield Raised(str(texts[1]), str(texts[0]), "upstream_error", str(texts[2]))

    def told(self, module: str, fields: Mapping[str, ast.expr], local: Mapping[str, ast.expr]) -> Iterator[Raised]:
        """The errors of one call, in all that its parts can be."""
        parts = {name: self.texts(module, fields.get(name), local) for name in FIELDS}
        for code, status, kind, message in product(parts["code"], parts["status"], parts["type"], parts["message"]):
            if code.strip(_ANY):
                yield Raised(code, status.strip(_ANY), kind.strip(_ANY), message)

    def maker(self, module: str, function: ast.expr) -> _Maker | None:
        """What makes an error by this name."""
        if isinstance(function, ast.Attribute):
            if function.attr == "__init__" and isinstance(function.value, ast.Call):  # of a class of errors
                derived = "WeirError" in self.names[module] and ast.unparse(function.value) == "super()"
                return self.makers[_MADE] if derived else None
            if isinstance(function.value, ast.Name):
                return self.makers.get(f"{self.names[module].get(function.value.id, '')}.{function.attr}")
        if isinstance(function, ast.Name):
            return self.makers.get(self.names[module].get(function.id, f"{module}.{function.id}"))
        return None

    def texts(self, module: str, value: ast.expr | None, local: Mapping[str, ast.expr]) -> list[str]:
        """What an expression can be."""
        match value:
            case ast.Constant(value=None) | None:
                return [""]
            case ast.Constant(value=text):
                return [str(text)]
            case ast.JoinedStr(values=parts):
                each = [self.texts(module, one, local) for one in parts]
                return ["".join(some[0] if len(some) == 1 else _ANY for some in each)]
            case ast.FormattedValue(value=inner, format_spec=None):
                return self.texts(module, inner, local)
            case ast.IfExp(body=one, orelse=other):
                return [*self.texts(module, one, local), *self.texts(module, other, local)]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                pairs = product(self.texts(module, left, local), self.texts(module, right, local))
                return [one + other for one, other in pairs]
            case ast.Name(id=name) if name in local:
                return self.texts(module, local[name], {key: text for key, text in local.items() if key != name})
            case ast.Name(id=name):
                constant = self.constants.get(self.names[module].get(name, f"{module}.{name}"))
                return [_ANY] if constant is None else self.texts(module, constant, {})
        return [_ANY]


def _parts(module: str, tree: ast.Module) -> Iterator[_Part]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node in tree.body:
            called = [one for one in ast.walk(node) if isinstance(one, ast.Call)]
            if called and not isinstance(node, ast.ClassDef):
                yield _Part(module, node, called)


def _set_later(tree: ast.Module) -> Iterator[Raised]:
    """`error.code = "…"`: of an error that was made before."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Attribute(attr="code")], value=ast.Constant(value=str(code))):
                yield Raised(code, "", "", "")


def _either(texts: list[str]) -> ast.expr:
    """An expression that can be each of these."""
    first, *rest = texts
    if not rest:
        return ast.Constant(first)
    return ast.IfExp(test=ast.Constant(True), body=ast.Constant(first), orelse=_either(rest))


def _filled(maker: _Maker, call: ast.Call) -> dict[str, ast.expr]:
    """The fields of the error that a call makes."""
    given = {**maker.defaults, **dict(zip(maker.parameters, call.args, strict=False))}
    given |= {one.arg: one.value for one in call.keywords if one.arg}
    return {
        field: given.get(value.id, value) if isinstance(value, ast.Name) else value
        for field, value in maker.fields.items()
    }


def _defaults(arguments: ast.arguments) -> dict[str, ast.expr]:
    ordered = [*arguments.posonlyargs, *arguments.args]
    found = dict(zip((one.arg for one in reversed(ordered)), reversed(arguments.defaults), strict=False))
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return found | {one.arg: value for one, value in named if value is not None}


def _names(module: str, tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What names of a module mean elsewhere: those that it imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for one in node.names:
                yield one.asname or one.name, f"{node.module}.{one.name}"


def _constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value


def _assigned(function: ast.AST, line: int) -> Iterator[tuple[str, ast.expr]]:
    """What names hold at a line, by what was assigned above it; of several, the last comes last."""
    assigned = [one for one in ast.walk(function) if isinstance(one, ast.Assign) and one.lineno <= line]
    for node in sorted(assigned, key=lambda one: one.lineno):
        if isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
