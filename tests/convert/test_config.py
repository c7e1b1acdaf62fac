"""Job files: what a parser would take long over never reaches it."""

import contextlib
import time

import pytest

from neurofm_shards.convert import config
from neurofm_shards.errors import ConfigError

DEEP = "[" * 1000
#: Texts in which nothing is nested, though it looks so.
SHALLOW = {
    "a basic string": f'stem = "{DEEP}\\"{DEEP}"',
    "a literal string": f"stem = '{DEEP}'",
    "long strings": f'stem = """\n{DEEP}"\\"""{DEEP}"""\nother = \'\'\'\n{DEEP}\'\'\'',
    "a comment": f"stem = 1 # {DEEP}",
    "many numbers": f"stem = [{', '.join(['1.5'] * 1000)}]",
    "many tables": "\n".join(f"[a.b{i}]\nc.d = 1" for i in range(1000)),
}
NESTED = {
    "arrays": f"stem = {DEEP}{']' * 1000}",
    "arrays over lines": "stem = " + "[\n" * 1000 + "]" * 1000,
    "inline tables": "stem = " + "{a = " * 1000 + "1" + "}" * 1000,
    "a table": f"[{'.'.join(['a'] * 1000)}]",
    "a dotted key": f"{' . '.join(['a'] * 1000)} = 1",
    "a key of quoted parts": ".".join(['"a"'] * 1000) + " = 1",
    "a key behind strings": f'a = \'{DEEP}\'\nb = """x"""\n{".".join(["a"] * 1000)} = 1',
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "job.toml"


@pytest.mark.parametrize("name", NESTED)
def test_what_is_nested_too_deeply_never_reaches_the_parser(path, monkeypatch, name):
    path.write_text(NESTED[name])
    monkeypatch.setattr(config.tomllib, "loads", lambda _: pytest.fail("the parser was asked"))
    with pytest.raises(ConfigError, match=r"job\.toml .*line \d+ is nested too deeply"):
        config.read_job(str(path))


@pytest.mark.parametrize("name", SHALLOW)
def test_what_only_looks_nested_is_read(path, name):
    path.write_text(SHALLOW[name])
    assert dict(config.read_job(str(path)).settings) == config.tomllib.loads(SHALLOW[name])


@pytest.mark.parametrize("piece", ["[", ".", '"""', '"""\\', "'''a", '"\n', "\\", '"', "a.b,", "# \n"])
def test_a_megabyte_of_anything_is_looked_at_once(path, monkeypatch, piece):
    """A quadratic scan of it would take hours."""
    path.write_text(piece * ((1 << 20) // len(piece)))
    monkeypatch.setattr(config.tomllib, "loads", lambda _: {})
    before = time.process_time()
    with contextlib.suppress(ConfigError):
        config.read_job(str(path))
    assert time.process_time() - before < 20  # 0.6 s on an idle machine


def test_one_choice_of_behaviour_is_a_list_of_one():
    one, many = ({"windows": {"behavior": said}} for said in ({"path": "speed"}, [{"path": "speed"}]))
    assert config.ConversionConfig.of(one).content() == config.ConversionConfig.of(many).content()


def test_an_option_of_windows_that_stands_beside_them_is_pointed_there():
    with pytest.raises(ConfigError, match=r"bin_size_ms: no such option \(did you mean 'windows.bin_size_ms'\?\)"):
        config.ConversionConfig.of({"bin_size_ms": 20})
    with pytest.raises(ConfigError, match=r"windows.bin_size: no such option \(did you mean 'bin_size_ms'\?\)"):
        config.ConversionConfig.of({"windows": {"bin_size": 20}})


def test_a_split_may_be_one_word():
    one, whole = ({"windows": {"split": said}} for said in ("time", {"by": "time"}))
    assert config.ConversionConfig.of(one).content() == config.ConversionConfig.of(whole).content()
    with pytest.raises(ConfigError, match=r"split\.by: input should be 'session', 'subject', 'trial' or 'time'"):
        config.ConversionConfig.of({"windows": {"split": "tiem"}})
