"""Messages have Python's names of options, and the command line shows its flags instead."""

from __future__ import annotations

import shlex

import pytest

from neurofm_shards.convert.option_names import in_flags
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import NeurofmShardsError


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("say missing=skip or missing=mask.", "say --missing skip or --missing mask."),
        ("on_error='skip' leaves them out", "--on-error skip leaves them out"),
        ("add it with mode='append', or mode=\"overwrite\"", "add it with --append, or --overwrite"),
        ("relative_columns=cue,in (or absolute_columns)", "--relative-columns cue in (or --absolute-columns)"),
        ("Choose one with lfp.path.", 'Choose one with --lfp \'{"path": "PATH"}\'.'),
        ("ophys.path=PATH takes it", '--ophys \'{"path": "PATH"}\' takes it'),
        ("behavior=[{'path': PATH}] takes it", "--behavior '[{\"path\": PATH}]' takes it"),
        ("source={'timestamps': 't', 'rate': 30.5}", "--timestamps t --rate 30.5"),
        ("source={'arrays': [KEY, ...]} chooses", "--arrays KEY ... chooses"),
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
