"""Which keys a config node may have, read off the source of the class that it names: no torch, so at once."""

import ast
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_object

ROOT = Path(__file__).parents[1]


def check_nodes(config: Mapping[str, Any], prefix: str = "", *, imported: bool = False) -> None:
    """Refuses a key that the class named by `_target_` does not take, in `config` and every node below.

    Args:
        imported: look at the classes of torch and Lightning, by importing them, instead of this repository's.

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
    """Names of the arguments of a class of torch or Lightning, None of any other and where it takes all names."""
    if not target.startswith(("torch.", "lightning.")):
        return None
    parameters = inspect.signature(get_object(target)).parameters.values()
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else {p.name for p in parameters}


def arguments(target: str) -> set[str] | None:
    """Names of the arguments of the class or function `target` ("models.adapters.LoRA"), None where unknown."""
    if target == "abc.ABC":
        return set()
    module, _, name = target.rpartition(".")
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    if not module or not file.is_file():
        return None
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _names(node)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _class_arguments(node, dict(_imports(tree)) | {n: f"{module}.{n}" for n in _classes(tree)})
    return None


def _class_arguments(node: ast.ClassDef, known: Mapping[str, str]) -> set[str] | None:
    init = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    if init is None and any("dataclass" in ast.unparse(each) for each in node.decorator_list):
        fields = (item.target for item in node.body if isinstance(item, ast.AnnAssign))
        return {field.id for field in fields if isinstance(field, ast.Name)}
    own = _names(init) - {"self"} if init else set()
    if init and not init.args.kwarg:
        return own
    bases = (known[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in known)
    inherited = next(map(arguments, bases), None)
    return None if inherited is None else own | inherited


def _names(function: ast.FunctionDef) -> set[str]:
    return {each.arg for each in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)}


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _classes(tree: ast.Module) -> Iterator[str]:
    yield from (node.name for node in tree.body if isinstance(node, ast.ClassDef))
