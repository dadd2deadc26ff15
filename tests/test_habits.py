"""CI refuses what the pre-commit hooks refuse: the command of every hook passes on the checkout."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sysconfig
from typing import Any

import pytest
import yaml
from checkout import ROOT, tracked_files

REPOSITORIES = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
HOOKS = [hook for repository in REPOSITORIES for hook in repository["hooks"]]


def test_hooks_need_nothing_but_the_environment() -> None:
    """Every key of the configuration is known here, and no hook is fetched from a server."""
    assert {repository["repo"] for repository in REPOSITORIES} == {"local"}
    assert {hook["language"] for hook in HOOKS} == {"system"}
    understood = {"id", "name", "entry", "language", "files", "pass_filenames"}
    assert [key for hook in HOOKS for key in hook if key not in understood] == []


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_hook(hook: dict[str, Any]) -> None:
    chosen = [name for name in tracked_files() if re.search(hook.get("files", ""), name)]
    assert chosen
    # The tools are beside this Python, whether its environment is activated or not.
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    command = [*shlex.split(hook["entry"]), *(chosen if hook.get("pass_filenames", True) else [])]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
