"""``status``: how far a conversion is, in words and as JSON, while it runs and after."""

import json
import threading

import pytest

from neurofm_shards.cli.main import run
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.parts import Part, commit_parts, plan_parts, run_part

CONFIG = ConversionConfig.of({"shard_size": 2})


@pytest.fixture
def planned(toys, toy, tmp_path):
    plan_parts(toys(a={"n": 6}, b={"n": 6}), tmp_path / "out", CONFIG, parts=3)
    return tmp_path / "out"


def shown(capsys, *words):
    code = run(["status", *map(str, words)])
    return code, capsys.readouterr().out


def test_words_say_what_is_done_and_what_is_left(planned, capsys):
    run_part(planned, Part(2, 3))
    code, said = shown(capsys, planned)
    assert code == 0
    assert "unfinished, 2 of 6 shards (4 samples" in said
    assert [line.split()[:3] for line in said.splitlines() if "/3" in line] == [
        ["1/3", "waiting", "0/2"],
        ["2/3", "finished", "2/2"],
        ["3/3", "waiting", "0/2"],
    ]


def test_json_is_one_document(planned, capsys):
    run_part(planned, Part(1, 3))
    _, said = shown(capsys, planned, "--json")
    status = json.loads(said)
    assert (status["state"], status["finished_shards"], status["total_shards"]) == ("unfinished", 2, 6)
    assert [part["state"] for part in status["parts"]] == ["finished", "waiting", "waiting"]


def test_a_folder_without_a_conversion_says_so(tmp_path, capsys):
    assert shown(capsys, tmp_path) == (0, f"{tmp_path}: no conversion was begun here\n")
    assert run(["status", str(tmp_path / "absent")]) == 2


def test_watching_ends_with_the_conversion(planned, capsys):
    def finish():
        for k in (1, 2, 3):
            run_part(planned, Part(k, 3))
        commit_parts(planned)

    thread = threading.Thread(target=finish)
    thread.start()
    code, said = shown(capsys, planned, "--watch", "--every", "0.1")
    thread.join()
    assert code == 0
    assert said.splitlines()[-1].startswith(f"{planned}: finished, 6 of 6 shards (12 samples")
