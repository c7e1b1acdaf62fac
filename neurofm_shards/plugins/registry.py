"""Look up plugins by name, register them in code, make objects from configuration, and say what to install."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError

from neurofm_shards.errors import (
    ConfigError,
    EncodeError,
    MissingPluginError,
    NeurofmShardsError,
    PluginError,
    did_you_mean,
)
from neurofm_shards.plugins.entries import (
    CodecEntry,
    CommandEntry,
    CompressionEntry,
    Entry,
    ExecutorEntry,
    SourceEntry,
    TransformEntry,
)
from neurofm_shards.plugins.host import STRICT_PLUGINS, Host, Plugin, check_entry, is_set
from neurofm_shards.plugins.interfaces import Codec

E = TypeVar("E", bound=Entry)
#: Stands for the distribution of what a ``register_*`` call registered.
IN_CODE = "(code)"

#: What our own distributions provide, by extra, kind and name: the only place where the core names its plugins.
EXTRAS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "nwb": {"source": ("nwb",), "command": ("demo",), "suffix": (".nwb",)},
        "npz": {"source": ("npz",), "suffix": (".npz",)},
        "arrays": {"source": ("arrays",), "suffix": (".npy",)},
        "compression": {"compression": ("zstd", "lz4"), "suffix": (".tar.zst", ".tar.lz4")},
        "transforms": {
            "transform": ("zscore", "cast", "select", "rename", "crop", "clip", "smooth", "sqrt", "channel-mask")
        },
        "report": {"command": ("report", "show")},
        **{name: {"executor": (name,)} for name in ("slurm", "dask", "ray", "mpi")},
    }
)

#: Types that always become JSON, whatever codecs are installed.
_JSON_TYPES = (bool, int, float, str, type(None), list, tuple, dict)


def install_hint(kind: str, name: str) -> str:
    """Return the ``pip install`` line for one of our own plugins by kind and name, or an empty string."""
    return _pip_line(extra for extra, provided in EXTRAS.items() if name in provided.get(kind, ()))


def install_hint_for_file(path: str) -> str:
    """Return the ``pip install`` line for our own plugin that reads files named like this, or an empty string."""
    lower = path.lower()
    return _pip_line(extra for extra, provided in EXTRAS.items() if lower.endswith(provided.get("suffix", ())))


def _pip_line(extras: Iterable[str]) -> str:
    return next((f"pip install 'neurofm-shards[{extra}]'" for extra in extras), "")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return a message that nothing is registered under a name: close matches, what to install, what is installed."""
    known = sorted(known)
    message = f"no {kind} named {name!r} is installed"
    if hint := install_hint(kind, name):
        message += f"; install it with: {hint}"
    elif close := difflib.get_close_matches(name, known, n=1):
        message += f"; did you mean {close[0]!r}?"
    return f"{message} (installed: {', '.join(known) or 'none'})"


@dataclass(frozen=True)
class Registered(Generic[E]):
    """An entry and where it comes from.

    Attributes
    ----------
    kind : str
        ``"source"``, ``"codec"``, ``"compression"``, ``"transform"``, ``"executor"`` or ``"command"``.
    entry : Entry
        The plugin's description of itself.
    distribution, version : str
        The distribution that provides it; ``"(code)"`` when it was registered by a ``register_*`` call.
    """

    kind: str
    entry: E
    distribution: str
    version: str

    @property
    def qualified_name(self) -> str:
        """``distribution/name``, which is never ambiguous."""
        return f"{self.distribution}/{self.entry.name}"

    def config_model(self) -> type[BaseModel] | None:
        """Import and check the configuration model.

        Raises
        ------
        PluginError
            It cannot be imported or is not a frozen, closed pydantic model with a fitting ``kind``.
        """
        if self.entry.config is None:
            return None
        model = self._resolve(self.entry.config)
        problem = _model_problem(model, self.entry.name)
        if problem:
            raise PluginError(f"{self.kind} {self.qualified_name}: its config model {problem}")
        return cast("type[BaseModel]", model)

    def make(self, options: Mapping[str, Any] | None = None) -> Any:
        """Validate options against the model and call the factory."""
        config = self.validate(options or {})
        factory = self._resolve(self.entry.factory)
        arguments = () if config is None else (config,)
        try:
            return cast("Callable[..., Any]", factory)(*arguments)
        except NeurofmShardsError:
            raise
        except Exception as error:
            raise PluginError(
                f"{self.kind} {self.qualified_name}: its factory failed: {type(error).__name__}: {error}"
            ) from error

    def validate(self, options: Mapping[str, Any]) -> BaseModel | None:
        """Return the validated configuration, or None when this plugin has no options.

        Raises
        ------
        ConfigError
            Naming every option that is wrong.
        """
        model = self.config_model()
        options = {key: value for key, value in options.items() if key != "kind"}
        if model is None:
            if options:
                raise ConfigError(f"{self.kind} {self.entry.name!r} has no options, but was given {sorted(options)}")
            return None
        try:
            return model.model_validate({"kind": self.entry.name, **options})
        except ValidationError as error:
            raise ConfigError(f"{self.kind} {self.entry.name!r}: {explain(error, model)}") from None

    def _resolve(self, reference: object) -> object:
        if not isinstance(reference, str):
            return reference
        module, _, attribute = reference.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{self.kind} {self.qualified_name} is broken: {reference} cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Turn what pydantic found about a model into one line: option, what is wrong, what was given or meant."""
    parts = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"] if part != "kind") or "options"
        unknown = item["type"] == "extra_forbidden"
        message = "no such option" if unknown else item["msg"][:1].lower() + item["msg"][1:]
        given = "" if unknown or item["type"] == "missing" else f" (given: {item['input']!r:.80})"
        given += _meant(model, item["loc"]) if unknown else ""
        parts.append(f"{where}: {message}{given}")
    return "; ".join(parts)


def _meant(model: type[BaseModel], path: Sequence[int | str]) -> str:
    """Return which option of a model was probably meant by one that it does not have."""
    for part in path[:-1]:
        models = _models_in(model, str(part))
        if not models:
            return ""
        model = models[0]
    name = str(path[-1])
    inside = [field for field in model.model_fields for kind in _models_in(model, field) if name in kind.model_fields]
    return f" (did you mean {f'{inside[0]}.{name}'!r}?)" if inside else did_you_mean(name, model.model_fields)


def _models_in(model: type[BaseModel], name: str) -> list[type[BaseModel]]:
    """Return the models that a field of a model takes."""
    field = model.model_fields.get(name)
    inner = [] if field is None else [field.annotation, *get_args(field.annotation)]
    return [kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _model_problem(model: object, name: str) -> str:
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return f"is {model!r}, not a pydantic model"
    if not model.model_config.get("frozen") or model.model_config.get("extra") != "forbid":
        return 'must be frozen with extra="forbid" (derive it from neurofm_shards.plugins.interfaces.PluginConfig)'
    field = model.model_fields.get("kind")
    if field is None or field.default != name:
        return f'must have a field kind: Literal["{name}"] = "{name}"'
    return ""


class Kind(Generic[E]):
    """All plugins of one kind, by name."""

    def __init__(self, kind: str, entry_type: type[E]) -> None:
        self.kind = kind
        self._entry_type = entry_type
        self._by_name: dict[str, list[Registered[E]]] = {}
        self._instances: dict[str, Any] = {}

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._by_name)

    def entries(self) -> list[Registered[E]]:
        """Return everything registered, sorted by name and distribution."""
        return [item for name in self.names() for item in self._by_name[name]]

    def register(self, entry: E, *, distribution: str = IN_CODE, version: str = "") -> None:
        """Add an entry.

        An entry that was registered in code is replaced by the next one that code registers under its name, as a
        notebook cell does that runs again. A name that a distribution claims as well becomes ambiguous.
        """
        check_entry(entry, self._entry_type, f"register_{self.kind}")
        if distribution == IN_CODE:
            self.unregister(entry.name)
        self._by_name.setdefault(entry.name, []).append(Registered(self.kind, entry, distribution, version))
        self._instances.clear()

    def unregister(self, name: str) -> None:
        """Remove an entry that was registered in code."""
        kept = [item for item in self._by_name.pop(name, []) if item.distribution != IN_CODE]
        if kept:
            self._by_name[name] = kept
        self._instances.clear()

    def get(self, name: str) -> Registered[E]:
        """Return the entry registered under a name or a qualified ``distribution/name``.

        Raises
        ------
        MissingPluginError
            Nothing has this name; the message says what comes close and what to install.
        PluginError
            It is registered more than once.
        """
        distribution, _, short = name.rpartition("/")
        found = [item for item in self._by_name.get(short, []) if distribution in ("", item.distribution)]
        if not found:
            raise MissingPluginError(unknown_name(self.kind, name, self._by_name))
        return self._only(found, f"the {self.kind} {name!r}")

    def make(self, config: str | Mapping[str, Any] | BaseModel) -> Any:
        """Make an object from a name, a dict with ``kind`` and options, or a config model."""
        if isinstance(config, str):
            return self.get(config).make()
        options = config.model_dump() if isinstance(config, BaseModel) else dict(config)
        name = options.get("kind")
        if not isinstance(name, str):
            raise ConfigError(f"the {self.kind} configuration {options!r} needs a 'kind' that names the {self.kind}")
        return self.get(name).make(options)

    def instance(self, name: str) -> Any:
        """Return the object with default options; it is made once, until something is registered."""
        if name not in self._instances:
            self._instances[name] = self.get(name).make()
        return self._instances[name]

    def where(self, test: Callable[[E], bool], what: str) -> Registered[E] | None:
        """Return the one entry that passes a test, None when there is none.

        Raises
        ------
        PluginError
            More than one passes; ``what`` is used in the message.
        """
        found = [item for item in self.entries() if test(item.entry)]
        return self._only(found, what) if found else None

    def _only(self, found: list[Registered[E]], what: str) -> Registered[E]:
        if len(found) == 1:
            return found[0]
        spellings = sorted({item.qualified_name for item in found})
        if len(spellings) == 1:
            raise PluginError(
                f"{what} is registered {len(found)} times by {found[0].distribution}, which has to name "
                "one of them otherwise"
            )
        raise PluginError(
            f"{what} is provided by more than one distribution; say which one you mean "
            f"({', '.join(map(repr, spellings))}) or uninstall the other"
        )


class CodecKind(Kind[CodecEntry]):
    """Codecs, also by file extension and by the value to be stored."""

    def for_value(self, value: object, preferred: str = "pyd", *, field: str = "?") -> Codec:
        """Choose the codec for a value by its type.

        Python's own numbers, strings, booleans, None, lists and dicts are JSON; then the preferred (array) codec is
        asked, then all others.

        Raises
        ------
        EncodeError
            No codec takes the value.
        PluginError
            More than one of the others takes it.
        """
        if type(value) in _JSON_TYPES:
            return cast("Codec", self.instance("json"))
        first = cast("Codec", self.instance(preferred))
        if first.accepts(value):
            return first
        others: Iterable[Codec] = map(self.instance, set(self.names()) - {preferred, "json", "pyd", "npy"})
        takers = [codec for codec in others if codec.accepts(value)]
        if len(takers) > 1:
            raise PluginError(
                f"field {field!r}: codecs {sorted(codec.name for codec in takers)} all take a {type(value).__name__}; "
                f"choose one with codecs={{{field!r}: name}}"
            )
        if not takers:
            raise EncodeError(
                f"field {field!r}: no codec takes a {type(value).__module__}.{type(value).__qualname__}; convert it to "
                "an array or to JSON values, or register a codec for it: neurofm_shards.register_codec(CodecEntry(...))"
            )
        return takers[0]

    def by_extension(self, extension: str) -> Registered[CodecEntry] | None:
        """Return the codec of an extension (no dot), or None."""
        return self.where(lambda entry: entry.extension == extension, f"the codec of extension .{extension}")


class CompressionKind(Kind[CompressionEntry]):
    """Compressions, also by file name."""

    def by_suffix(self, file_name: str) -> Registered[CompressionEntry] | None:
        """Return the compression whose suffix a file name ends in, or None."""
        return self.where(
            lambda entry: file_name.endswith(".tar" + entry.suffix), f"the compression of files like {file_name}"
        )


class Registry:
    """Everything that plugins registered."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.sources: Kind[SourceEntry] = Kind("source", SourceEntry)
        self.codecs = CodecKind("codec", CodecEntry)
        self.compressions = CompressionKind("compression", CompressionEntry)
        self.transforms: Kind[TransformEntry] = Kind("transform", TransformEntry)
        self.executors: Kind[ExecutorEntry] = Kind("executor", ExecutorEntry)
        self.commands: Kind[CommandEntry] = Kind("command", CommandEntry)
        for plugin in host.plugins:
            for kind, entry in plugin.entries:
                self.kind(kind).register(entry, distribution=plugin.distribution, version=plugin.version)

    @property
    def plugins(self) -> list[Plugin]:
        """All plugins that were found, broken ones included."""
        return list(self._host.plugins)

    def kinds(self) -> Iterator[Kind[Any]]:
        """Iterate over sources, codecs, compressions, transforms, executors, commands."""
        yield from (self.sources, self.codecs, self.compressions, self.transforms, self.executors, self.commands)

    def kind(self, name: str) -> Kind[Any]:
        """Return one kind by its singular name."""
        return next(kind for kind in self.kinds() if kind.kind == name)

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call an observer hook on all plugins; failures are logged, never raised."""
        self._host.notify(hook, **arguments)

    def code_entries(self) -> list[tuple[str, Entry]]:
        """Return the entries registered in code, for worker processes to :meth:`adopt`.

        Workers need no executors and no commands.
        """
        needed = (kind for kind in self.kinds() if kind.kind not in ("executor", "command"))
        return [(kind.kind, item.entry) for kind in needed for item in kind.entries() if item.distribution == IN_CODE]

    def adopt(self, entries: list[tuple[str, Entry]]) -> None:
        """Register entries that another process registered in code, unless the same ones are there already."""
        present = self.code_entries()
        for kind, entry in entries:
            if (kind, entry) not in present:
                self.kind(kind).register(entry)


@cache
def registry() -> Registry:
    """Return the one registry of this process; plugins are discovered when it is first asked for.

    Raises
    ------
    PluginError
        A plugin is broken and ``--strict-plugins`` is on.
    """
    host = Host()
    host.discover()
    broken = [plugin for plugin in host.plugins if plugin.error]
    if broken and is_set(STRICT_PLUGINS):
        raise PluginError(f"plugin {broken[0].name} of {broken[0].distribution} is broken: {broken[0].error}")
    return Registry(host)


def register_source(entry: SourceEntry) -> None:
    """Make an input format known in this process (and in the workers it starts)."""
    registry().sources.register(entry)


def register_codec(entry: CodecEntry) -> None:
    """Make a field codec known in this process (and in the workers it starts).

    Examples
    --------
    >>> from neurofm_shards.plugins.entries import CodecEntry
    >>> register_codec(CodecEntry(name="text", summary="UTF-8 text", extension="txt", factory="my_codecs:TextCodec"))
    """
    registry().codecs.register(entry)


def register_compression(entry: CompressionEntry) -> None:
    """Make a shard compression known in this process (and in the workers it starts)."""
    registry().compressions.register(entry)


def register_transform(entry: TransformEntry) -> None:
    """Make a sample transform known in this process (and in the workers it starts)."""
    registry().transforms.register(entry)


def register_executor(entry: ExecutorEntry) -> None:
    """Make a conversion executor known in this process."""
    registry().executors.register(entry)
