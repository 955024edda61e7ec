"""What the documents say is so: their commands are accepted, and every option is named."""

import re
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from engine.config.command import command_line
from schedulers.__main__ import main as draw
from tests.support.runs import CONF, ROOT


def commands_in(document: str) -> list[list[str]]:
    """Every command in a document's blocks of shell commands as its words, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(), re.S)
    lines = [line.partition("  #")[0] for block in blocks for line in block.splitlines()]
    return [words for words in map(shlex.split, lines) if words]


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "docs/recipes.md", "docs/schedulers.md"])
def test_the_commands_are_accepted(document, tmp_path, monkeypatch):
    """Each passes the check of the command line; the runs and photographs that the README names are provided."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "outputs" / "2026-01-31" / "12-00-00-ab12"
    (run / "checkpoints").mkdir(parents=True)
    (run / ".hydra").mkdir()
    (run / ".hydra" / "overrides.yaml").write_text("[]")
    torch.save({}, run / "checkpoints" / "last.pt")
    Path("photos").mkdir()
    for name in "abc":
        shutil.copytree(run, tmp_path / "multirun" / name)
    checked = 0
    for words in commands_in(document):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), words
        elif words[:3] == ["python", "-m", "schedulers"]:
            monkeypatch.setattr(sys, "argv", [str(ROOT / "schedulers" / "__main__.py"), *words[3:]])
            draw()
        elif words[:2] == ["python", "-m"]:
            assert find_spec(words[2]), words
        elif words[0] == "python":
            monkeypatch.setattr(sys, "argv", words[1:])
            command_line({"train.py": "config", "evaluate.py": "evaluate"}[words[1]])
        else:
            assert words[0] == "tensorboard", words
        checked += 1
    assert checked >= 5


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
