"""Find plugins and ask each for its entries, so that a broken one breaks nothing else."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from neurofm_shards.errors import InputNotFoundError, PluginError, did_you_mean
from neurofm_shards.plugins import builtin, hookspecs
from neurofm_shards.plugins.entries import KINDS, Entry

#: Set to anything but "" or "0" to load no third-party plugin at all; ``--no-plugins`` sets it.
NO_PLUGINS = "NEUROFM_SHARDS_NO_PLUGINS"
#: Comma-separated distribution names: no others are loaded.
ALLOWED_PLUGINS = "NEUROFM_SHARDS_PLUGINS"
#: Further plugin files, separated like PATH; ``--plugin FILE.py`` sets it, so that worker processes see it too.
PLUGIN_FILES = "NEUROFM_SHARDS_PLUGIN_FILES"
#: Set to make a broken plugin an error; ``--strict-plugins`` sets it.
STRICT_PLUGINS = "NEUROFM_SHARDS_STRICT_PLUGINS"

logger = logging.getLogger("neurofm_shards.plugins")


@dataclass(frozen=True)
class Plugin:
    """One plugin as it was found.

    Attributes
    ----------
    name : str
        Entry-point name, or the file's path.
    distribution, version : str
        Where it comes from.
    entries : tuple of (kind, Entry)
        What it registered; empty when it is broken.
    error : str
        Why it is broken; empty when it is not.
    """

    name: str
    distribution: str
    version: str
    entries: tuple[tuple[str, Entry], ...] = ()
    error: str = ""


def is_set(variable: str) -> bool:
    """Return whether an environment switch is on."""
    return os.environ.get(variable, "") not in ("", "0")


class Host:
    """The plugin manager, with each plugin's failures kept to itself."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []

    def discover(self) -> None:
        """Load the built-in plugin, installed distributions and plugin files, as the environment allows."""
        self._take(builtin, "builtin", *_own_distribution())
        if not is_set(NO_PLUGINS):
            for point, distribution, version in _entry_points():
                self._load(point, distribution, version)
        for path in filter(None, os.environ.get(PLUGIN_FILES, "").split(os.pathsep)):
            self._load_file(Path(path))

    def notify(self, hook: str, **arguments: Any) -> None:
        """Tell every observer; one that raises is logged and never stops the run."""
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            names = implementation.argnames
            try:
                implementation.function(*[arguments[name] for name in names])
            except Exception:  # whatever a stranger's observer raises is logged with its trace, and stops nothing
                logger.exception("plugin %r failed in %s", implementation.plugin_name, hook)

    def _load(self, point: importlib.metadata.EntryPoint, distribution: str, version: str) -> None:
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:  # noqa: BLE001  (a stranger's import may raise anything; it is recorded)
            self._broken(point.name, distribution, version, f"import failed: {_describe(error)}")
        else:
            self._take(plugin, point.name, distribution, version)

    def _load_file(self, path: Path) -> None:
        if not path.is_file():
            raise InputNotFoundError(f"plugin file {path} does not exist")
        spec = importlib.util.spec_from_file_location(f"neurofm_shards_plugin_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise PluginError(f"plugin file {path} is not a Python file: its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # so that its classes can be pickled
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise PluginError(f"plugin file {path} failed to import: {_describe(error)}") from error
        self._take(module, str(path), str(path), "")
        if self.plugins[-1].error:
            raise PluginError(f"plugin file {path} is broken: {self.plugins[-1].error}")

    def _take(self, plugin: ModuleType | object, name: str, distribution: str, version: str) -> None:
        try:
            self._manager.register(plugin, name=f"{distribution}:{name}")
            self._check_hook_names(plugin)
            entries = tuple(self._entries(plugin))
        except (Exception, SystemExit) as error:  # noqa: BLE001  (so may a stranger's hook; it is recorded)
            self._unregister(plugin)
            self._broken(name, distribution, version, _describe(error))
        else:
            self.plugins.append(Plugin(name, distribution, version, entries))

    def _unregister(self, plugin: object) -> None:
        if self._manager.is_registered(plugin):
            self._manager.unregister(plugin)

    def _broken(self, name: str, distribution: str, version: str, error: str) -> None:
        logger.debug("plugin %s of %s is broken: %s", name, distribution, error)
        self.plugins.append(Plugin(name, distribution, version, error=error))

    def _check_hook_names(self, plugin: object) -> None:
        known = {name for name in vars(hookspecs) if name.startswith("neurofm_")}
        for attribute in dir(plugin):
            if attribute.startswith("neurofm_") and attribute not in known and callable(getattr(plugin, attribute)):
                meant, hooks = did_you_mean(attribute, known), ", ".join(sorted(known))
                raise PluginError(f"{attribute} is not a hook{meant}; the hooks are: {hooks}")
        self._manager.check_pending()

    def _entries(self, plugin: object) -> Iterator[tuple[str, Entry]]:
        for kind, entry_type in KINDS.items():
            hook = f"neurofm_register_{kind}s"
            for implementation in getattr(self._manager.hook, hook).get_hookimpls():
                if implementation.plugin is not plugin:
                    continue
                returned = implementation.function()
                several = isinstance(returned, Iterable) and not isinstance(returned, str)
                for entry in returned if several else (returned,):
                    check_entry(entry, entry_type, hook)
                    yield kind, entry


def check_entry(entry: object, entry_type: type[Entry], where: str) -> None:
    """Refuse an entry of the wrong class or with an unusable name.

    Raises
    ------
    PluginError
        Saying what was returned and what is wanted.
    """
    if not isinstance(entry, entry_type):
        raise PluginError(f"{where} gave {entry!r}; it must give {entry_type.__name__} objects")
    name = entry.name
    if not name or not name.replace("-", "a").replace("_", "a").isalnum() or name != name.lower() or not name.isascii():
        raise PluginError(f"{where} gave an entry named {name!r}; names are lower-case letters, digits, - and _")


def _describe(error: BaseException) -> str:
    return str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"


def _own_distribution() -> tuple[str, str]:
    from neurofm_shards._version import __version__  # noqa: PLC0415  (one place for the version)

    return "neurofm-shards", __version__


def _entry_points() -> Iterator[tuple[importlib.metadata.EntryPoint, str, str]]:
    allowed_text = os.environ.get(ALLOWED_PLUGINS)
    allowed = None if allowed_text is None else {_normal(name) for name in allowed_text.split(",")}
    found = []
    for point in importlib.metadata.entry_points(group=hookspecs.ENTRY_POINT_GROUP):
        distribution = point.dist.name if point.dist else "(unknown)"
        version = point.dist.version if point.dist else ""
        if allowed is None or _normal(distribution) in allowed:
            found.append((point, distribution, version))
    yield from sorted(found, key=lambda item: (_normal(item[1]), item[0].name))


def _normal(distribution: str) -> str:
    return distribution.strip().lower().replace("_", "-").replace(".", "-")
