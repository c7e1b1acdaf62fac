"""Flags are made from models: every kind of field, and only what was given."""

from __future__ import annotations

import argparse
import shlex
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from neurofm_shards.cli.options import ModelFlags, in_flags
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import NeurofmShardsError
from neurofm_shards.recordings.options import WindowOptions


class Inner(BaseModel):
    rate: float = 1.0


class Options(BaseModel):
    number: int = Field(3, description="100 % of it")
    text: str | None = None
    on: bool = False
    choice: Literal["a", "b"] = "a"
    many: tuple[str, ...] = ()
    some: tuple[Literal["x", "y"], ...] | None = None
    pair: tuple[float, float] | None = None
    rate: float | str | None = None
    inner: Inner = Inner()
    mapping: dict[str, int] = {}


def parse(*words, model=Options):
    parser = argparse.ArgumentParser()
    parser.add_argument("--text")
    flags = ModelFlags(model, "demo")
    flags.add_to(parser.add_argument_group("g"))
    return flags.given(parser.parse_args(words)), parser


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], {}),
        (["--number", "5"], {"number": 5}),
        (["--demo-text", "t"], {"text": "t"}),
        (["--on"], {"on": True}),
        (["--no-on"], {"on": False}),
        (["--choice", "b"], {"choice": "b"}),
        (["--many", "p", "q"], {"many": ["p", "q"]}),
        (["--some", "x", "y"], {"some": ["x", "y"]}),
        (["--pair", "-1", "2.5"], {"pair": [-1.0, 2.5]}),
        (["--rate", "250"], {"rate": 250}),
        (["--rate", "sf"], {"rate": "sf"}),
        (["--inner", '{"rate": 2}'], {"inner": {"rate": 2}}),
        (["--mapping", '{"k": 1}'], {"mapping": {"k": 1}}),
    ],
)
def test_flags_give_what_the_model_takes(words, given):
    values, _ = parse(*words)
    assert values == given
    Options.model_validate(values)


def test_help_tells_defaults_and_choices():
    _, parser = parse()
    text = " ".join(parser.format_help().split())
    assert "100 % of it (default: 3)" in text
    assert "--choice {a,b}" in text
    assert ": x, y" in text


def test_help_tells_the_defaults_of_the_command_line():
    parser = argparse.ArgumentParser()
    ModelFlags(Options, "x", defaults={"number": 7}).add_to(parser.add_argument_group("x"))
    assert "100 % of it (default: 7)" in " ".join(parser.format_help().split())


def test_every_window_option_has_a_flag():
    _, parser = parse(model=WindowOptions)
    text = parser.format_help()
    for name in WindowOptions.model_fields:
        assert f"--{name.replace('_', '-')}" in text


def test_help_says_what_goes_into_json():
    _, parser = parse(model=WindowOptions)
    text = " ".join(parser.format_help().split())
    assert "as JSON: an object, or a list of them, with path, rate, channels, filter, units, max_gap_ms" in text
    assert "as JSON: a list of objects with path, columns, kind, wrap, at, max_gap_ms" in text
    assert "as JSON: an object with by, fractions, named, balanced, seed, purge, column" in text


def test_labels_are_names_or_objects():
    words = ["--label-columns", "side", "5", '{"column": "side", "as": "code"}']
    given, _ = parse(*words, model=WindowOptions)
    assert given == {"label_columns": ["side", "5", {"column": "side", "as": "code"}]}
    assert WindowOptions(**given).labels("code") == ("side",)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("say missing=skip or missing=mask.", "say --missing skip or --missing mask."),
        ("on_error='skip' leaves them out", "--on-error skip leaves them out"),
        ("add it with mode='append', or mode=\"overwrite\"", "add it with --append, or --overwrite"),
        ("replace it with overwrite=True, or", "replace it with --overwrite, or"),
        ("relative_columns=cue,in (or absolute_columns)", "--relative-columns cue in (or --absolute-columns)"),
        ("Choose one with lfp.path.", 'Choose one with --lfp \'{"path": "PATH"}\'.'),
        ("ophys.path=PATH takes it", '--ophys \'{"path": "PATH"}\' takes it'),
        ("behavior=[{'path': PATH}] takes it", "--behavior '[{\"path\": PATH}]' takes it"),
        ("source={'timestamps': 't', 'rate': 30.5}", "--timestamps t --rate 30.5"),
        ("source={'arrays': [KEY, ...]} chooses", "--arrays KEY ... chooses"),
        ("take modalities=[NAME, ...], extent=[0, 9]", "take --modalities NAME ..., --extent '[0, 9]'"),
        ("min_valid_fraction drops them", "--min-valid-fraction drops them"),
        ('choose session_template="{parent}_{stem}"', 'choose --session-template "{parent}_{stem}"'),
    ],
)
def test_names_become_flags(said, shown):
    assert in_flags(said) == shown


@pytest.mark.parametrize(
    "said",
    [
        "behavior: valid in 5 % of windows",
        "/data/on_error=skip/file.nwb is empty",
        "processing/behavior/lfp.path.nwb",
        "--missing skip",
        "a column 'trial_table' of units",
    ],
)
def test_what_is_no_option_stays(said):
    assert in_flags(said) == said


def test_python_and_the_command_line_are_told_in_their_own_words(toys, tmp_path, capsys):
    from neurofm_shards.cli.main import run

    paths = toys(a={"n": 3})
    convert_inputs(paths, tmp_path / "out")
    with pytest.raises(NeurofmShardsError, match="mode='append'") as caught:
        convert_inputs(paths, tmp_path / "out")
    assert "--" not in str(caught.value)
    assert run(shlex.split(f"convert -i {paths[0]} -o {tmp_path / 'out'}")) == 2
    said = capsys.readouterr().err
    assert "--append" in said
    assert "mode=" not in said
