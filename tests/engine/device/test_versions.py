"""The revision that a run records."""

import subprocess

from engine.device.versions import git_revision


def test_the_revision_of_an_enclosing_repository_is_not_the_projects(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    assert git_revision(inside) is None
    for words in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a", "commit", "-q", "--allow-empty", "-m", "a"],
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert len(git_revision(tmp_path)) == 40
    assert git_revision(inside) is None
