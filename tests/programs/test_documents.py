"""What the documents say is so: their commands are accepted, and every option is named."""

import re
import shlex
import shutil
import sys
from importlib.util import find_spec
from itertools import dropwhile
from pathlib import Path

import pytest
import torch

from engine.config.command import command_line
from schedulers.__main__ import main as draw
from tests.support.runs import CONF, ROOT

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "bench/README.md",
    *(f"docs/{file.name}" for file in sorted(ROOT.glob("docs/*.md"))),
]


def commands_in(document: str) -> list[list[str]]:
    """Every command in a document's blocks of shell commands as its words, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(), re.S)
    lines = [line.partition("  #")[0] for block in blocks for line in block.splitlines()]
    return [words for words in map(shlex.split, lines) if words]


@pytest.mark.slow
@pytest.mark.parametrize("document", [document for document in DOCUMENTS if commands_in(document)])
def test_the_commands_are_accepted(document, tmp_path, monkeypatch):
    """Each passes the check of the command line; the runs and photographs that documents name are provided."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "outputs" / "2026-01-31" / "12-00-00-ab12"
    (run / "checkpoints").mkdir(parents=True)
    (run / ".hydra").mkdir()
    (run / ".hydra" / "overrides.yaml").write_text("[]")
    torch.save({}, run / "checkpoints" / "last.pt")
    Path("photos").mkdir()
    for name in "abc":
        shutil.copytree(run, tmp_path / "multirun" / name)
    for words in commands_in(document):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), words
        elif words[:3] == ["python", "-m", "schedulers"]:
            monkeypatch.setattr(sys, "argv", [str(ROOT / "schedulers" / "__main__.py"), *words[3:]])
            draw()
        elif words[:2] == ["python", "-m"]:
            assert find_spec(words[2]), words
            assert all((ROOT / word).exists() for word in words[3:] if word.startswith("tests/")), words
        elif words[0] in ("python", "torchrun"):
            monkeypatch.setattr(sys, "argv", list(dropwhile(lambda word: not word.endswith(".py"), words)))
            command_line({"train.py": "config", "evaluate.py": "evaluate"}[sys.argv[0]])
        elif words[0].startswith("."):
            assert (ROOT / words[0]).is_file(), words
        else:
            assert words[0] == "tensorboard" or words == ["source", ".venv/bin/activate"], words


def test_the_documents_have_commands():
    """Those that were moved to other pages are found there."""
    for document in ("README.md", "CONTRIBUTING.md", "docs/recipes.md", "docs/schedulers.md", "docs/evaluation.md"):
        assert len(commands_in(document)) >= 5, document


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    """Of those within the project, files exist and anchors are headings, as GitHub names them."""
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / document).read_text()):
        path, _, anchor = link.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


def test_the_readme_names_every_option():
    readme = (ROOT / "README.md").read_text()
    for file in CONF.glob("*/*.yaml"):
        if file.parent.name == "recipe":
            continue  # docs/recipes.md
        assert f"`{file.stem}`" in readme, file


def test_the_recipe_in_its_document_is_accepted(tmp_path, monkeypatch):
    (recipe,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "recipes.md").read_text(), re.S)
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text(recipe)
    monkeypatch.setattr(sys, "argv", ["train.py", "--config-dir", str(tmp_path), "recipe=mine"])
    command_line("config")
