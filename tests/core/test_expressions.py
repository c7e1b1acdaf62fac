"""Expressions: Python's comparisons with SQL's missing values, and nothing else."""

from __future__ import annotations

import contextlib
import operator
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm_shards.errors import ConfigError
from neurofm_shards.expressions import compile_expression

TABLE = {
    "subject": np.array(["M1", "M1", "M2", None], object),
    "condition": np.array(["left", "right", "left", "up"], object),
    "rate": np.array([1.0, np.nan, 3.0, 0.2]),
    "trial": np.array([1, 2, 3, 4]),
    "correct": np.array([True, False, True, True]),
    "rewarded": np.array([True, None, False, None], object),
    "weight": np.array([1.5, None, 0.5, float("nan")], object),
    "mask": np.array([0, 1, 2, 2**64 - 1], np.uint64),
    "code": np.array(["A", 1, None, 2.5], object),
}


def chosen(text, table=TABLE):
    return compile_expression(text)(table).astype(int).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('subject == "M1" and condition in ("left", "right")', [1, 1, 0, 0]),
        ('subject != "M1"', [0, 0, 1, 0]),
        ('not subject == "M1"', [0, 0, 1, 0]),
        ('subject not in ["M1"]', [0, 0, 1, 0]),
        ("subject is None", [0, 0, 0, 1]),
        ("subject is not None", [1, 1, 1, 0]),
        ("rate > 0.5", [1, 0, 1, 0]),
        ("not (rate > 0.5)", [0, 0, 0, 1]),
        ("rate is None", [0, 1, 0, 0]),
        ("rate > 0.5 or correct", [1, 0, 1, 1]),
        ("rate > 0.5 or trial == 2", [1, 1, 1, 0]),
        ("not (rate > 0.5 and trial == 1)", [0, 1, 1, 1]),
        ("1 < trial <= 3", [0, 1, 1, 0]),
        ("trial % 2 == 0", [0, 1, 0, 1]),
        ("(trial + 1) * 2 - 3 >= rate", [1, 0, 1, 1]),
        ("trial / (trial - 1) < 2", [0, 0, 1, 1]),
        ("trial // 2 == 1", [0, 1, 1, 0]),
        ("-trial < -2", [0, 0, 1, 1]),
        ("correct", [1, 0, 1, 1]),
        ("not correct", [0, 1, 0, 0]),
        ("correct == False", [0, 1, 0, 0]),
        ("rewarded", [1, 0, 0, 0]),
        ("not rewarded", [0, 0, 1, 0]),
        ("(trial > 2) == correct", [0, 1, 1, 1]),
        ('code == "A" or code == 1', [1, 1, 0, 0]),
        ('condition < "m"', [1, 0, 1, 0]),
        ("weight + 1 > 2", [1, 0, 0, 0]),
        ("weight * 2 == 1 or -weight < -1", [1, 0, 1, 0]),
        ("mask > -1", [1, 1, 1, 1]),
        ("trial in ()", [0, 0, 0, 0]),
        ("True", [1, 1, 1, 1]),
        ("1 > 2", [0, 0, 0, 0]),
    ],
)
def test_rows_are_chosen(text, rows):
    assert chosen(text) == rows


NUMBERS = st.lists(st.one_of(st.none(), st.integers(-5, 5)), min_size=1, max_size=12)
OPERATORS = {"<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt}


@given(NUMBERS, st.sampled_from(sorted(OPERATORS)), st.sampled_from(sorted(OPERATORS)), st.sampled_from(["and", "or"]))
def test_missing_values_follow_three_valued_logic(numbers, first, second, joined):
    column = np.array(numbers, object)
    found = chosen(f"not (x {first} 1 {joined} y {second} 0)", {"x": column, "y": column[::-1]})
    for x, y, got in zip(numbers, numbers[::-1], found, strict=True):
        one = None if x is None else OPERATORS[first](x, 1)
        two = None if y is None else OPERATORS[second](y, 0)
        known = {one, two}
        if joined == "and":
            truth = False if False in known else None if None in known else True
        else:
            truth = True if True in known else None if None in known else False
        assert bool(got) == (truth is False)


@pytest.mark.parametrize(
    "text",
    [
        '__import__("os").system("true")', "subject.__class__", "subject[0]", "trial ** 9", "lambda: 0",
        "[t for t in trial]",
        "trial if correct else 1", 'f"{trial}"', "(t := 1)", "trial << 9", "~trial", "trial @ trial", "1e999 < trial",
        f"trial < {10**30}", "await trial", "yield", "a; b", "a = 1", "", "trial and", "b'x' == subject", "... == 1",
        "1j == trial", "*trial", "(" * 300, "not " * 300 + "correct", "trial +" * 900 + "1", "x" * 5000,
        "\x00", "trial == {1: 2}",
    ],
)  # fmt: skip
def test_everything_else_is_refused(text):
    with pytest.raises(ConfigError):
        compile_expression(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('subjct == "M1"', "no column 'subjct' .did you mean 'subject'..; there are: code, condition"),
        ("subject == 1", r"subject \(text\) and 1 \(number\) cannot be compared"),
        ("subject in ('M1', 1)", "cannot be compared"),
        ("trial", "is not a boolean; compare it"),
        ("subject + 1 > 2", "subject is no number"),
        ('"a" * 9 == subject', "'a' is no number"),
        ("subject == None", "write 'is None'"),
        ("trial is 1", "'is' asks for None only"),
        ("trial in subject", "constants in brackets"),
        ("code < 2", "without an order"),
        ("(1, 2) == trial", "may only follow 'in'"),
        ("trial * 9223372036854775807 > 0", "goes beyond 64 bits"),
        ("trial * 4611686018427387905 > 0", "goes beyond 64 bits"),
        ("mask - 1 > 0", "mask goes beyond 64 bits"),
    ],
)
def test_what_makes_no_sense_is_explained(text, says):
    with pytest.raises(ConfigError, match=says):
        chosen(text)


def test_an_expression_can_be_sent_to_another_process():
    expression = pickle.loads(pickle.dumps(compile_expression("trial > 2")))
    assert expression(TABLE).tolist() == [False, False, True, True]
    assert expression.names == {"trial"}


@given(st.text(max_size=40))
def test_any_text_is_an_expression_or_a_clear_error(text):
    with contextlib.suppress(ConfigError):
        compile_expression(text)(TABLE)


def test_integers_meet_fractions_exactly():
    large = 864691135567721507
    fractions = np.array([float(large), 1.5, np.nan])
    assert compile_expression(f"x == {large}")({"x": fractions}).tolist() == [False, False, False]
    assert compile_expression(f"x < {large}")({"x": fractions}).tolist() == [True, True, False]
    whole = np.array([large, large + 1, 2**63 + 5], np.uint64)
    assert compile_expression(f"x == {large}")({"x": whole}).tolist() == [True, False, False]
    assert compile_expression(f"x == {2**63 + 5}")({"x": whole}).tolist() == [False, False, True]
    assert compile_expression("x > -1")({"x": whole}).tolist() == [True, True, True]
    assert compile_expression("x < y")({"x": whole, "y": np.array([large + 1] * 3)}).tolist() == [True, False, False]


@pytest.mark.parametrize("edge", [-(2**63), -(2**63) + 1, -(2**64) + 1])
def test_negative_numbers_are_compared_as_they_are(edge):
    found = {"x": np.array([edge + 1, edge, 0.5, None], object)}
    assert compile_expression(f"x == {edge}")(found).tolist() == [False, True, False, False]
    assert compile_expression(f"x > {edge}")(found).tolist() == [True, False, True, False]
    assert compile_expression(f"x in ({edge}, 0.5)")(found).tolist() == [False, True, True, False]


def test_numbers_that_no_type_holds_are_compared_and_not_calculated_with():
    found = {"x": np.array([2**53 + 1, 0.5, None], object)}
    assert compile_expression(f"x == {2**53 + 1}")(found).tolist() == [True, False, False]
    with pytest.raises(ConfigError, match=r"x has numbers that 64 bits do not hold exactly.*compare it"):
        compile_expression("x - 1 > 0")(found)


ODD = {
    "reaction time": np.array([0.2, 0.5, np.nan]),
    "probe.id": np.array(["A1", "B2", None], object),
    "class": np.array([1, 2, 3]),
    "plain": np.array(["x`y`", "other", "x"], object),
}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("`reaction time` > 0.3", [0, 1, 0]),
        ('`probe.id` == "A1" or `class` == 3', [1, 0, 1]),
        ("plain == 'x`y`'", [1, 0, 0]),
        ('startswith(`probe.id`, "B")', [0, 1, 0]),
        ('not `probe.id`.startswith("B")', [1, 0, 0]),
        ('matches(`probe.id`, "[AB][0-9]")', [1, 1, 0]),
        ('matches(`probe.id`, "[AB]")', [0, 0, 0]),
        ('plain.startswith("x")', [1, 0, 1]),
        ("between(`reaction time`, 0.2, 0.4)", [1, 0, 0]),
        ("`class`.between(2, 3) and not between(`reaction time`, 0, 0.3)", [0, 1, 0]),
    ],
)
def test_odd_names_and_functions(text, rows):
    assert chosen(text, ODD) == rows
    assert pickle.loads(pickle.dumps(compile_expression(text)))(ODD).tolist() == compile_expression(text)(ODD).tolist()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("`reaction tim` > 1", "did you mean 'reaction time'"),
        ("startswith(`class`, 'x')", "class is no text"),
        ("matches(plain, '[')", "no regular expression"),
        ("startswith(plain, plain)", "a text in quotes"),
        ("between(`class`, 1)", r"'between\(class, 1\)' in .*: write between\(name, lowest, highest\)"),
        ("`class`.between(1, 2, 3)", r"write between\(name, lowest, highest\)"),
        ("between(`class`, lowest=1, highest=2)", r"write between\(name, lowest, highest\)"),
        ("startswith(`class`)", r"write startswith\(name, 'text'\)"),
        ("startwith(`class`, 'M')", r"no function 'startwith' \(did you mean 'startswith'\?\)"),
        ("plain.upper() == 'X'", "not allowed"),
        ("`` == 1", "cannot read|not allowed"),
    ],
)
def test_what_is_wrong_with_odd_names_and_functions_is_said(text, says):
    with pytest.raises(ConfigError, match=says):
        chosen(text, ODD)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("class == 1", "'class' is a word of Python: write the name in backquotes, `class`"),
        ("subject == 'class' and lambda > 2", "write the name in backquotes, `lambda`"),
        ("trial between 3 and 5", "write it like subject == 'M1' and between(trial, 1, 9)"),
        ("a b < 5", "names with spaces or dots in backquotes"),
        ("subject = 'M1'", "write it like subject == 'M1'"),
    ],
)
def test_what_cannot_be_read_comes_with_a_remedy(text, says):
    with pytest.raises(ConfigError, match=f"cannot read the expression .*{re.escape(says)}"):
        compile_expression(text)
