"""What is no folder of shards is named for what it is."""

import gzip
import shutil

import numpy as np
import pytest

from neurofm_shards import ShardDataset, ShardedDatasetInfo, create_shards_from_arrays
from neurofm_shards.errors import ConfigError, FormatError, InputNotFoundError, NoShardsError


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere") / "shards"
    create_shards_from_arrays(folder, {"x": np.arange(20)}, shard_size=5)
    return folder


@pytest.mark.parametrize("url", ["https://host/shard_{0..9}.tar", "s3://bucket/x", "hf://datasets/a", "pipe:cat x.tar"])
def test_urls_and_commands_are_not_taken_for_folders(url):
    with pytest.raises(ConfigError, match="streamed.*give the folder"):
        ShardDataset(url)


@pytest.mark.parametrize(
    ("pattern", "samples"),
    [("shard_{000000..000001}.tar", 10), ("shard_00000{1,3}.tar", 10), ("shard_{000002..000009}.tar", 10)],
)
@pytest.mark.parametrize("ours", [True, False])
def test_braces_stand_for_ranges_and_choices(shards, tmp_path, pattern, samples, ours):
    folder = shards
    if not ours:
        folder = tmp_path / "foreign"
        shutil.copytree(shards, folder, ignore=shutil.ignore_patterns(".neurofm", "*.json"))
    assert len(ShardDataset(folder, pattern)) == samples
    assert len(ShardDataset(folder / pattern)) == samples


@pytest.mark.parametrize("pattern", ["*.tar", "shard_00000[01].tar", "shard_00000?.tar"])
def test_a_path_may_end_with_a_pattern(shards, pattern):
    assert len(ShardDataset(shards / pattern)) == len(list(shards.glob(pattern))) * 5


@pytest.mark.parametrize("pattern", ["*/*.tar", "{a,b}/shard_000000.tar", "sh*/x/shard_000000.tar"])
def test_a_path_through_several_folders_is_named(shards, pattern):
    with pytest.raises(ConfigError, match=r"several folders, and a data set is one folder.*mix"):
        ShardDataset(shards.parent / pattern)


def test_brackets_in_the_names_of_folders_are_no_pattern(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "rat[1]")
    assert len(ShardDataset(tmp_path / "rat[1]")) == 20
    with pytest.raises(InputNotFoundError, match="there is no folder"):
        ShardDataset(tmp_path / "rat[1]" / "absent")


def test_a_pattern_that_is_a_command_is_named(shards):
    with pytest.raises(ConfigError, match="a command whose output would have to be streamed"):
        ShardDataset(shards, "pipe:cat x.tar")


@pytest.mark.parametrize("what", ["dataset_metadata.json", "shard_000002.tar"])
def test_pointers_in_a_data_set_of_ours_are_named(shards, tmp_path, what):
    shutil.copytree(shards, tmp_path / "d")
    (tmp_path / "d" / what).write_text(LFS)
    with pytest.raises(InputNotFoundError, match=f"{what} is a pointer of git-lfs.*git lfs pull"):
        list(ShardDataset(tmp_path / "d"))


def test_info_says_of_one_shard_what_it_is_part_of(shards, tmp_path):
    (note,) = ShardedDatasetInfo(shards / "shard_000001.tar").get_summary()["notes"]
    assert note.startswith(f"part of the data set {shards} (20 samples in 4 shards): give the folder")
    shutil.copy(shards / "shard_000001.tar", tmp_path)
    (note,) = ShardedDatasetInfo(tmp_path / "shard_000001.tar").get_summary()["notes"]
    assert note == "not written by this program: indexes were made from the shards"


def test_folders_below_are_named(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "a")
    with pytest.raises(ConfigError, match=r"'\*/\*.tar' reaches into folders below.*mix"):
        ShardDataset(tmp_path, "*/*.tar")
    with pytest.raises(NoShardsError, match="there are some in a"):
        ShardDataset(tmp_path)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"


@pytest.mark.parametrize(
    ("text", "says"), [(LFS, "git lfs pull"), ("/annex/objects/MD5E-s12--abc.tar\n", "git annex get")]
)
def test_pointers_are_no_damaged_shards(tmp_path, text, says):
    (tmp_path / "shard_000000.tar").write_text(text)
    with pytest.raises(InputNotFoundError, match=says):
        ShardDataset(tmp_path)


def test_a_link_to_what_git_annex_did_not_fetch_is_named(tmp_path):
    (tmp_path / "shard_000000.tar").symlink_to("../.git/annex/objects/a/b.tar")
    with pytest.raises(InputNotFoundError, match="git annex get"):
        ShardDataset(tmp_path)


def test_tgz_is_named(shards, tmp_path):
    packed = gzip.compress((shards / "shard_000000.tar").read_bytes())
    (tmp_path / "shard_000000.tgz").write_bytes(packed)
    with pytest.raises(NoShardsError, match=r"\.tgz files.*rename"):
        ShardDataset(tmp_path)
    with pytest.raises(FormatError, match=r"rename it to \.tar\.gz"):
        ShardDataset(tmp_path, "*.tgz")
    (tmp_path / "shard_000000.tgz").rename(tmp_path / "shard_000000.tar.gz")
    assert len(ShardDataset(tmp_path)) == 5
