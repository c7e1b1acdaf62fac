"""Plugins are found one by one; a broken one breaks nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from neurofm_shards.convert.dispatch import Call, dispatcher
from neurofm_shards.errors import ConfigError, InputNotFoundError, MissingPluginError, PluginError
from neurofm_shards.plugins.entries import CodecEntry, TransformEntry

GOOD = """
from neurofm_shards import hookimpl
from neurofm_shards.plugins.entries import TransformEntry

@hookimpl
def neurofm_register_transforms():
    return [TransformEntry(name="{name}", summary="a good one", factory="{module}:make")]

def make():
    return len
"""

BROKEN = {
    "import_error": ("import no_such_module_at_all", "no_such_module_at_all"),
    "system_exit": ("raise SystemExit(3)", "SystemExit"),
    "syntax_error": ("def (", "SyntaxError"),
    "raising_hook": (
        "from neurofm_shards import hookimpl\n@hookimpl\ndef neurofm_register_codecs():\n    raise KeyError('oops')",
        "KeyError: 'oops'",
    ),
    "exiting_hook": (
        "from neurofm_shards import hookimpl\n@hookimpl\ndef neurofm_register_codecs():\n    raise SystemExit",
        "SystemExit",
    ),
    "bad_hook_name": (
        "from neurofm_shards import hookimpl\n@hookimpl\ndef neurofm_register_codec():\n    return []",
        "neurofm_register_codec is not a hook",
    ),
    "bad_arguments": (
        "from neurofm_shards import hookimpl\n@hookimpl\ndef neurofm_register_codecs(config):\n    return []",
        "config",
    ),
    "no_entry": (
        "from neurofm_shards import hookimpl\n@hookimpl\ndef neurofm_register_codecs():\n    return None",
        "gave None; it must give CodecEntry objects",
    ),
    "wrong_entry": (
        "from neurofm_shards import hookimpl\n@hookimpl\ndef neurofm_register_codecs():\n    return ['text']",
        "CodecEntry",
    ),
    "bad_entry_name": (
        "from neurofm_shards import hookimpl\nfrom neurofm_shards.plugins.entries import CodecEntry\n"
        "@hookimpl\ndef neurofm_register_codecs():\n"
        "    return [CodecEntry(name='My Codec', summary='', factory='x:y', extension='my')]",
        "names are lower-case",
    ),
}


def install(folder: Path, distribution: str, code: str, *, version: str = "1.2") -> None:
    """Put a distribution with one entry point where Python finds it."""
    module = distribution.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[neurofm_shards.v1]\nmain = {module}\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if (tmp_path / f"{name}.py").exists()]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_distribution_is_recorded_and_the_others_work(kind, site, fresh_registry):
    code, words = BROKEN[kind]
    install(site, f"zz-broken-{kind.replace('_', '-')}", code)
    install(site, "zz-good", GOOD.format(name="goodone", module="zz_good"))
    found = fresh_registry()
    broken = [plugin for plugin in found.plugins if plugin.distribution.startswith("zz-broken")]
    assert len(broken) == 1
    assert words in broken[0].error
    assert broken[0].version == "1.2"
    assert found.transforms.make("goodone") is len
    assert "pyd" in found.codecs.names()


def test_strict_plugins_makes_a_broken_one_an_error(site, fresh_registry, monkeypatch):
    install(site, "zz-broken", "import no_such_module_at_all")
    monkeypatch.setenv("NEUROFM_SHARDS_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="zz-broken.*no_such_module_at_all"):
        fresh_registry()


def test_two_distributions_with_one_name_leave_that_name_alone_ambiguous(site, fresh_registry):
    install(site, "zz-first", GOOD.format(name="same", module="zz_first"))
    install(site, "zz-second", GOOD.format(name="same", module="zz_second"))
    found = fresh_registry()
    with pytest.raises(PluginError, match="'zz-first/same', 'zz-second/same'"):
        found.transforms.get("same")
    assert found.transforms.make("zz-second/same") is len
    assert found.transforms.get("zz-first/same").distribution == "zz-first"
    assert found.codecs.get("pyd")


def test_no_plugins_and_the_allow_list_keep_distributions_out(site, fresh_registry, monkeypatch):
    install(site, "zz-first", GOOD.format(name="first", module="zz_first"))
    install(site, "zz-second", "raise RuntimeError('must not be imported')")
    monkeypatch.setenv("NEUROFM_SHARDS_PLUGINS", "ZZ_First")
    found = fresh_registry()
    assert "first" in found.transforms.names()
    assert "zz_second" not in sys.modules
    fresh_registry.cache_clear()
    monkeypatch.setenv("NEUROFM_SHARDS_NO_PLUGINS", "1")
    assert {plugin.distribution for plugin in fresh_registry().plugins} == {"neurofm-shards"}


def test_workers_keep_out_what_the_program_keeps_out(site, fresh_registry, monkeypatch):
    install(site, "zz-first", GOOD.format(name="first", module="zz_first"))
    install(site, "zz-second", GOOD.format(name="second", module="zz_second"))
    found = "[entry.distribution for entry in __import__('neurofm_shards').plugins.registry.registry().plugins]"
    asked = f"(set({found}), 'zz_second' in __import__('sys').modules)"

    def in_a_worker():
        fresh_registry.cache_clear()
        with dispatcher("processes", 1) as made:
            return next(made.in_order([Call(eval, (asked,), "asking")]))

    distributions, is_imported = in_a_worker()
    assert {"zz-first", "zz-second"} <= distributions
    assert is_imported
    monkeypatch.setenv("NEUROFM_SHARDS_PLUGINS", "zz-first")
    assert in_a_worker() == ({"neurofm-shards", "zz-first"}, False)
    monkeypatch.setenv("NEUROFM_SHARDS_NO_PLUGINS", "1")
    assert in_a_worker() == ({"neurofm-shards"}, False)


def test_listing_imports_no_factory(site, fresh_registry):
    install(site, "zz-lazy", GOOD.format(name="lazy", module="zz_never_imported"))
    found = fresh_registry()
    assert "lazy" in found.transforms.names()
    assert "zz_never_imported" not in sys.modules
    with pytest.raises(PluginError, match="zz-lazy/lazy is broken: zz_never_imported:make cannot be imported"):
        found.transforms.make("lazy")


def test_a_plugin_file_is_loaded_and_a_missing_or_broken_one_is_an_error(tmp_path, fresh_registry, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text(GOOD.format(name="from-file", module="neurofm_shards_plugin_mine"))
    monkeypatch.setenv("NEUROFM_SHARDS_PLUGIN_FILES", str(path))
    assert fresh_registry().transforms.make("from-file") is len
    fresh_registry.cache_clear()
    path.write_text("1 / 0")
    with pytest.raises(PluginError, match="mine.py failed to import: ZeroDivisionError"):
        fresh_registry()
    path.write_text(BROKEN["bad_hook_name"][0])
    with pytest.raises(
        PluginError,
        match="mine.py is broken: neurofm_register_codec is not a hook .did you mean 'neurofm_register_codecs'",
    ):
        fresh_registry()
    monkeypatch.setenv("NEUROFM_SHARDS_PLUGIN_FILES", str(tmp_path / "absent.py"))
    with pytest.raises(InputNotFoundError, match="absent.py"):
        fresh_registry()


def test_an_unknown_name_says_what_comes_close_and_what_to_install(fresh_registry):
    with pytest.raises(MissingPluginError, match="did you mean 'npy'"):
        fresh_registry().codecs.get("npyy")
    with pytest.raises(MissingPluginError, match="did you mean 'gz'|installed: bz2, gz"):
        fresh_registry().compressions.get("gzip")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("class C:\n    pass", "not a pydantic model"),
        ("from pydantic import BaseModel\nclass C(BaseModel):\n    kind: str = 't'", "frozen"),
        (
            "from neurofm_shards.plugins.config import PluginConfig\nclass C(PluginConfig):\n    kind: str = 'other'",
            'kind: Literal\\["t"\\]',
        ),
        ("raise RuntimeError('boom')", "boom"),
    ],
)
def test_a_bad_config_model_is_an_error_of_that_plugin_only(model, words, site, fresh_registry):
    (site / "zz_model.py").write_text(model)
    found = fresh_registry()
    found.transforms.register(TransformEntry(name="t", summary="", factory=len, config="zz_model:C"))
    with pytest.raises(PluginError, match=words):
        found.transforms.make("t")
    assert found.compressions.get("gz")


def test_options_are_checked_and_named(fresh_registry):
    found = fresh_registry()
    with pytest.raises(ConfigError, match="'gz': .*speed: no such option"):
        found.compressions.make({"kind": "gz", "speed": 3})
    with pytest.raises(ConfigError, match="has no options"):
        found.codecs.make({"kind": "npy", "level": 3})
    with pytest.raises(ConfigError, match="needs a 'kind'"):
        found.compressions.make({"level": 3})


class First:
    """A codec's object, as far as the registry is concerned."""


class Second:
    """Another."""


def test_registering_again_in_code_replaces_what_code_registered(fresh_registry):
    found = fresh_registry().codecs
    for factory in (First, Second):
        found.register(CodecEntry(name="text", summary="", factory=factory, extension="txt"))
        by_extension = found.by_extension("txt")
        assert by_extension.entry.factory is factory
        assert {type(found.instance(name)) for name in ("text", by_extension.qualified_name)} == {factory}


def test_a_worker_gets_the_later_of_two_registrations(fresh_registry):
    found = fresh_registry()
    first, second = (CodecEntry(name="text", summary="", factory=each, extension="txt") for each in (First, Second))
    found.adopt([("codec", first)])
    kept = found.codecs.instance("text")
    found.adopt([("codec", first)])
    assert found.codecs.instance("text") is kept, "an entry that is there already is left alone"
    found.adopt([("codec", second)])
    assert type(found.codecs.instance("text")) is Second


def test_a_distribution_that_registers_a_name_twice_is_told_so(site, fresh_registry):
    twice = "[TransformEntry(name='twice', summary='', factory=len)] * 2"
    install(site, "zz-twice", GOOD.format(name="good", module="zz_twice").replace("[Trans", f"{twice} + [Trans"))
    found = fresh_registry()
    with pytest.raises(PluginError, match=r"'twice' is registered 2 times by zz-twice"):
        found.transforms.get("twice")
    assert found.transforms.get("good")


@pytest.mark.parametrize("returned", ["{}", "[{}]", "iter([{}])"])
def test_a_hook_returns_one_entry_or_several(returned, site, fresh_registry):
    entry = "TransformEntry(name='only', summary='', factory=len)"
    install(
        site,
        "zz-only",
        "from neurofm_shards import hookimpl\nfrom neurofm_shards.plugins.entries import TransformEntry\n"
        f"@hookimpl\ndef neurofm_register_transforms():\n    return {returned.format(entry)}",
    )
    assert fresh_registry().transforms.get("only").distribution == "zz-only"


def test_code_and_a_distribution_clash(fresh_registry):
    found = fresh_registry()
    found.codecs.register(CodecEntry(name="npy", summary="", factory=object, extension="npy"))
    with pytest.raises(PluginError, match="more than one distribution"):
        found.codecs.get("npy")
    with pytest.raises(PluginError, match=r"extension \.npy"):
        found.codecs.by_extension("npy")
    found.codecs.unregister("npy")
    assert found.codecs.get("npy").distribution == "neurofm-shards"


def test_an_observer_that_raises_stops_nothing(tmp_path, fresh_registry, monkeypatch, caplog):
    path = tmp_path / "observer.py"
    path.write_text(
        "from neurofm_shards import hookimpl\nseen = []\n"
        "@hookimpl\ndef neurofm_shard_committed(shard):\n    seen.append(shard)\n    raise ValueError('from observer')"
    )
    monkeypatch.setenv("NEUROFM_SHARDS_PLUGIN_FILES", str(path))
    fresh_registry().notify("neurofm_shard_committed", shard={"shard_idx": 4})
    assert sys.modules["neurofm_shards_plugin_observer"].seen == [{"shard_idx": 4}]
    assert "from observer" in caplog.text


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plugins", "list"], ["convert", "--help"]])
def test_help_and_lists_import_nothing_heavy(arguments):
    code = (
        "import sys; from neurofm_shards.cli.main import run\n"
        "try:\n    run(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'torch', 'h5py', 'pynwb', 'pandas', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
