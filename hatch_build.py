"""Compiles the modules that are written in C. Without a compiler, NumPy does their work."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

MODULES = ("neurofm_shards.reading._rows", "neurofm_shards.recordings._events", "neurofm_shards.writing._moments")
#: Included by each of them.
HEADER = "neurofm_shards/_extension.h"
#: No product is added without being rounded first: numbers are the same with and without these modules.
EXACT = "-ffp-contract=off"
#: ``pure``: compile nothing. ``compiled``: fail where that cannot be done.
CHOICE = "NEUROFM_SHARDS_BUILD"


class CompileModules(BuildHookInterface[Any]):
    """Puts the compiled modules into the wheel, or beside their sources for an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile."""
        self._scratch = tempfile.mkdtemp()
        choice = os.environ.get(CHOICE, "auto")
        if self.target_name != "wheel" or choice == "pure":
            return
        try:
            built = self._compiled(in_place=version == "editable")
        except Exception as error:
            if choice == "compiled":
                raise
            self.app.display_warning(f"{', '.join(MODULES)} were not compiled, NumPy will do their work: {error}")
            return
        if version != "editable":
            for module, path in built.items():
                build_data["force_include"][str(path)] = f"{module.replace('.', '/')}{''.join(path.suffixes)}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Clear up."""
        shutil.rmtree(self._scratch)

    def _compiled(self, *, in_place: bool) -> dict[str, Path]:
        extensions = [
            Extension(module, [f"{module.replace('.', '/')}.c"], depends=[HEADER], extra_compile_args=[EXACT])
            for module in MODULES
        ]
        here = Path.cwd()
        os.chdir(self.root)
        try:
            command = build_ext(Distribution({"name": "neurofm-shards", "ext_modules": extensions}))
            command.inplace = in_place
            command.build_temp = command.build_lib = self._scratch
            command.ensure_finalized()
            command.run()
            paths = [Path(path).resolve() for path in command.get_outputs()]
            return dict(zip(MODULES, paths, strict=True))
        finally:
            os.chdir(here)
