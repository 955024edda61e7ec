"""The house keeps its shape: who imports whom, and how large the entry points may grow."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("models", "data", "schedulers", "engine", "hydra_plugins", "bench")
# The one arrow upwards. A notebook wants `models.create` and `models.load`, whose logic reads conf/, which models may
# not know; `models` calls it from within the two functions, so that to import `models` imports nothing else.
UPWARDS = (ROOT / "models" / "__init__.py", "engine")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def imported(file: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            modules.add(node.module)
    return modules


def reached(file: Path) -> set[Path]:
    """The project's files that a file imports, their packages' __init__.py as well, wherever in it."""
    modules = imported(file)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):  # of a package also its modules
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    places = [ROOT.joinpath(*module.split(".")) for module in modules]
    packages = [above / "__init__.py" for place in places for above in (place, *place.parents) if ROOT in above.parents]
    return {file for file in (*packages, *(place.with_suffix(".py") for place in places)) if file.is_file()}


def top(module: str) -> str:
    """The package that a module belongs to."""
    return module.partition(".")[0]


@pytest.mark.parametrize("package", ["models", "data", "schedulers"])
def test_siblings_import_neither_each_other_nor_upwards(package):
    forbidden = {*PACKAGES, "train", "evaluate", "hydra", "omegaconf"} - {package}
    for file in (ROOT / package).rglob("*.py"):
        if file.name != "__main__.py":  # a command like train.py, which nothing imports
            allowed = {UPWARDS[1]} if file == UPWARDS[0] else set()
            assert not {top(module) for module in imported(file)} & forbidden - allowed, file


def test_the_arrow_upwards_leads_to_one_module_and_is_lazy():
    file, _ = UPWARDS
    tree = ast.parse(file.read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and top(node.module) == "engine"]
    assert {(node.module, *(alias.name for alias in node.names)) for node in found} == {("engine", "notebook")}
    assert not set(found) & set(tree.body)


def test_nothing_imports_an_entry_point():
    for file in SOURCES:
        assert not {module for module in imported(file) if module in {"train", "evaluate"} or "__main__" in module}, (
            file
        )


def test_only_the_edge_knows_hydra():
    edge = {"build.py", "check.py", "command.py", "notebook.py", "overrides.py", "resume.py", "sweep.py"}
    edge |= {"beside.py", "estimate.py", "launch.py", "slurm.py"}
    for file in (ROOT / "engine").rglob("*.py"):
        if file.name not in edge:
            assert not {top(module) for module in imported(file)} & {"hydra", "omegaconf"}, file


def test_what_checks_the_command_line_never_reaches_torch():
    """The answer to a mistake must not wait for torch's import."""
    heavy, seen = {"torch", "torchvision", "tensorboard", "numpy"}, set()
    pending = [ROOT / "engine" / "command.py", ROOT / "schedulers" / "__init__.py"]
    pending += list((ROOT / "hydra_plugins").glob("*.py"))
    pending += list((ROOT / "schedulers").glob("*.py"))
    while pending:
        file = pending.pop()
        if file not in seen:
            seen.add(file)
            assert not {top(module) for module in imported(file)} & heavy, file
            pending += reached(file)
    assert ROOT / "engine" / "slurm.py" in seen


@pytest.mark.parametrize("program", ["train.py", "evaluate.py"])
def test_entry_points_stay_small(program):
    assert len((ROOT / program).read_text().splitlines()) <= 80


def test_configuration_stops_at_the_edge():
    """Whatever lies behind the edge is handed what it needs, and not the configuration of everything."""
    edge = {"build.py", "check.py", "command.py", "estimate.py", "launch.py", "settings.py", "sweep.py"}
    edge |= {"tensorboard.py"}
    for file in (*(ROOT / "engine").rglob("*.py"), *(ROOT / "models").rglob("*.py"), *(ROOT / "data").rglob("*.py")):
        if file.name not in edge:
            functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
            given = {argument.arg for node in functions for argument in (*node.args.args, *node.args.kwonlyargs)}
            assert not given & {"config", "cfg"}, file


def test_files_are_named_by_what_they_do():
    assert not {file.stem for file in SOURCES} & {"utils", "helpers", "common", "misc"}


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_module_and_public_definition_says_what_it_is(file):
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree), file
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{file}: {node.name}"
