"""The house keeps its shape: who imports whom, and how large the entry points may grow."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("models", "data", "schedulers", "engine", "hydra_plugins", "bench")
# From the ground up: a room imports from those before it alone.
ROOMS = ("run", "plotting", "device", "config", "distributed", "sweep", "evaluation", "logging", "training", "build")
ROOMS += ("inference", "report")
SOURCES = [ROOT / "hubconf.py", *(file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))]


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
    forbidden = {*PACKAGES, "train", "evaluate", "hubconf", "hydra", "omegaconf"} - {package}
    for file in (ROOT / package).rglob("*.py"):
        if file.name != "__main__.py":  # a command like train.py, which nothing imports
            assert not {top(module) for module in imported(file)} & forbidden, file


def test_nothing_imports_an_entry_point():
    for file in SOURCES:
        entry_points = {"train", "evaluate"} | ({"hubconf"} if ROOT / "bench" not in file.parents else set())
        assert not {module for module in imported(file) if module in entry_points or "__main__" in module}, file


def test_the_rooms_are_those_of_the_plan():
    assert {file.parent.name for file in (ROOT / "engine").glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_those_below_it_alone(room):
    above = ROOMS[ROOMS.index(room) + 1 :]
    for file in (ROOT / "engine" / room).rglob("*.py"):
        found = {
            path.relative_to(ROOT / "engine").parts[0] for path in reached(file) if ROOT / "engine" in path.parents
        }
        assert not found & {*above, "recipes.py"}, file


def named(file: Path) -> set[Path]:
    """The project's files that a file's import statements name, without the packages in which those lie."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            package = ROOT.joinpath(*node.module.split("."))
            modules = {package / f"{alias.name}.py" for alias in node.names}
            missing = [path for path in modules if not path.is_file()]
            found |= modules | ({package.with_suffix(".py"), package / "__init__.py"} if missing else set())
    return {path for path in found if path.is_file()}


def test_no_files_import_each_other_in_a_circle():
    """Take away the files that import none of the rest, again and again: nothing is left."""
    imports = {file: named(file) - {file} for file in SOURCES}
    while free := [file for file, others in imports.items() if not others & imports.keys()]:
        for file in free:
            del imports[file]
    assert not imports, sorted(imports)


def test_only_the_edge_knows_hydra():
    edge = {"distributed/launch.py", "inference/load.py", "run/exit.py", "recipes.py"}
    for file in (ROOT / "engine").rglob("*.py"):
        place = file.relative_to(ROOT / "engine")
        if place.parts[0] not in ("config", "build", "sweep") and str(place) not in edge:
            assert not {top(module) for module in imported(file)} & {"hydra", "omegaconf"}, file


def test_what_checks_the_command_line_never_reaches_torch():
    """The answer to a mistake must not wait for torch's import."""
    heavy, seen = {"torch", "torchvision", "tensorboard", "numpy"}, set()
    pending = [ROOT / "engine" / "config" / "command.py", ROOT / "schedulers" / "__init__.py"]
    pending += list((ROOT / "engine" / "run").glob("*.py"))
    pending += list((ROOT / "hydra_plugins").glob("*.py"))
    pending += list((ROOT / "schedulers").glob("*.py"))
    while pending:
        file = pending.pop()
        if file not in seen:
            seen.add(file)
            assert not {top(module) for module in imported(file)} & heavy, file
            pending += reached(file)
    assert ROOT / "engine" / "sweep" / "joblib_workers.py" in seen


@pytest.mark.parametrize("program", ["train.py", "evaluate.py"])
def test_entry_points_stay_small(program):
    assert len((ROOT / program).read_text().splitlines()) <= 80


def test_configuration_stops_at_the_edge():
    """Whatever lies behind the edge is handed what it needs, and not the configuration of everything."""
    edge = {"distributed/launch.py", "logging/tensorboard.py"}
    for file in (*(ROOT / "engine").rglob("*.py"), *(ROOT / "models").rglob("*.py"), *(ROOT / "data").rglob("*.py")):
        place = file.relative_to(file.parents[-len(ROOT.parts) - 1])
        if place.parts[0] not in ("config", "build", "sweep") and str(place) not in edge:
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
