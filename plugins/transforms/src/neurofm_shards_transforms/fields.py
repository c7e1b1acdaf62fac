"""Transforms of the set of fields: select and rename."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from neurofm_shards.errors import ConfigError
from neurofm_shards.plugins.interfaces import PluginConfig, Transform
from neurofm_shards.types import Block, Metadata, Sample


class SelectConfig(PluginConfig):
    """Options of ``select``."""

    kind: Literal["select"] = "select"
    fields: tuple[str, ...] = Field(..., min_length=1, description="fields to keep")


class RenameConfig(PluginConfig):
    """Options of ``rename``."""

    kind: Literal["rename"] = "rename"
    names: dict[str, str] = Field(..., min_length=1, description="old name to new name")

    @field_validator("names")
    @classmethod
    def _distinct(cls, value: dict[str, str]) -> dict[str, str]:
        if len(set(value.values())) < len(value):
            raise ValueError("two fields get the same new name")
        return value


class _FieldSetTransform(Transform):
    holds_gil: ClassVar[bool] = False

    @abstractmethod
    def change(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the new fields."""

    def __call__(self, sample: Sample, metadata: Metadata) -> Sample:  # noqa: ARG002
        """Change one sample."""
        return self.change(sample)

    def apply_block(self, block: Block) -> Block:
        """Change a whole block."""
        return replace(block, columns=self.change(block.columns))


class Select(_FieldSetTransform):
    """Keeps the named fields, in the order given."""

    def __init__(self, config: SelectConfig) -> None:
        self.fields = config.fields

    def change(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the named fields."""
        _check(self.fields, fields, "select")
        return {name: fields[name] for name in self.fields}


class Rename(_FieldSetTransform):
    """Renames fields; the order stays."""

    def __init__(self, config: RenameConfig) -> None:
        self.names = config.names

    def change(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields under their new names."""
        _check(self.names, fields, "rename")
        renamed = [self.names.get(name, name) for name in fields]
        clashes = {name for name in renamed if renamed.count(name) > 1}
        if clashes:
            raise ConfigError(f"rename: two fields would be called {min(clashes)!r}")
        return dict(zip(renamed, fields.values(), strict=True))


def _check(names: Any, fields: Mapping[str, Any], what: str) -> None:
    missing = [name for name in names if name not in fields]
    if missing:
        raise ConfigError(f"{what}: no field {missing[0]!r} in the samples; there are: {', '.join(sorted(fields))}")
