"""Arguments and attributes of the class that a config node names, read off its source: no torch, so at once."""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import get_object

ROOT = Path(__file__).parents[1]


def check_nodes(config: Mapping[str, Any], prefix: str = "", *, imported: bool = False) -> None:
    """Refuses a key that the class named by `_target_` does not take, in `config` and every node below.

    Args:
        imported: look at classes whose arguments come from torch or Lightning, by importing them, instead of at the
            sources of the others.

    Raises:
        ValueError: such a key, named with the class and the keys that it takes.
    """
    ask = library_arguments if imported else arguments
    allowed = ask(config["_target_"]) if isinstance(config.get("_target_"), str) else None
    for key, value in config.items():
        path = f"{prefix}.{key}".strip(".")
        if allowed is not None and not key.startswith("_") and key not in allowed:
            takes = ", ".join(sorted(allowed)) or "nothing"
            raise ValueError(f"unknown key {path!r}: {config['_target_']} takes {takes}")
        if isinstance(value, Mapping):
            check_nodes(value, path, imported=imported)


def library_arguments(target: str) -> set[str] | None:
    """Names of the arguments of a class of torch or Lightning, None of any other and where it takes all names.

    A class of ours that leaves its arguments to one of theirs (`callbacks.model_checkpoint`) counts as theirs.
    """
    ours = ROOT.joinpath(target.partition(".")[0]).is_dir()
    if not target.startswith(("torch.", "lightning.")) and not (ours and arguments(target) is None):
        return None
    parameters = inspect.signature(get_object(target)).parameters.values()
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else {p.name for p in parameters}


def arguments(target: str) -> set[str] | None:
    """Names of the arguments of the class or function `target` ("models.adapters.LoRA"), None where unknown.

    Only this repository is looked at: a class from elsewhere may take its arguments as it likes.
    """
    if target == "abc.ABC":
        return set()
    source = _source(target, (ROOT,))
    if source is None:
        return None
    if isinstance(source.node, ast.FunctionDef):
        return _names(source.node)
    return _class_arguments(source.node, source.known)


def class_attribute(target: str, name: str) -> Any:
    """The constant that the class `target`, or the first of its bases that has it, assigns to `name`; else None.

    Read off the source, in this repository or in a file on `sys.path`: no class is imported for it.
    """
    source = _source(target, (ROOT, *map(Path, sys.path)))
    if source is None or not isinstance(source.node, ast.ClassDef):
        return None
    for item in source.node.body:
        if not isinstance(item, ast.Assign | ast.AnnAssign) or not isinstance(item.value, ast.Constant):
            continue
        targets = item.targets if isinstance(item, ast.Assign) else [item.target]
        if name in (each.id for each in targets if isinstance(each, ast.Name)):
            return item.value.value
    bases = (source.known[name] for name in map(ast.unparse, source.node.bases) if name in source.known)
    found = (class_attribute(base, name) for base in bases)
    return next((value for value in found if value is not None), None)


@dataclass(frozen=True, slots=True)
class _Source:
    """A class or function, and the full names of what its file imports and defines."""

    node: ast.ClassDef | ast.FunctionDef
    known: Mapping[str, str]


def _source(target: str, roots: tuple[Path, ...]) -> _Source | None:
    module, _, name = target.rpartition(".")
    if not module:
        return None
    stems = [root.joinpath(*module.split(".")) for root in roots]
    files = (file for stem in stems for file in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"))
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    known = dict(_imports(tree, package)) | {each: f"{module}.{each}" for each in _classes(tree)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return _Source(node, known)
    # A package's __init__ hands on what its files define.
    return _source(known[name], roots) if known.get(name, target) != target else None


def _class_arguments(node: ast.ClassDef, known: Mapping[str, str]) -> set[str] | None:
    init = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    own = _names(init) - {"self"} if init else set()
    if init is None and any("dataclass" in ast.unparse(each) for each in node.decorator_list):
        own = set(_fields(node))
    if not node.bases or (init and not init.args.kwarg):
        return own
    bases = (known[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in known)
    inherited = next(map(arguments, bases), None)
    return None if inherited is None else own | inherited


def _fields(node: ast.ClassDef) -> Iterator[str]:
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        if "ClassVar" not in ast.unparse(item.annotation):
            yield item.target.id


def _names(function: ast.FunctionDef) -> set[str]:
    return {each.arg for each in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)}


def _imports(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    """Full names by what they are called here, of imports for type checkers and relative ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((alias.asname or alias.name, f"{module}.{alias.name}") for alias in node.names)


def _classes(tree: ast.Module) -> Iterator[str]:
    yield from (node.name for node in tree.body if isinstance(node, ast.ClassDef))
