"""Arguments and options that several commands share, and functions that parse their text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from reion.errors import InputError, did_you_mean

Sources = Annotated[
    list[Path], typer.Argument(metavar="SOURCE...", help="Files, folders, patterns or Zarr stores.")
]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="An ONNX file or the name of a model that comes with reion.")
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Format of the files where it is not recognised: zarr, npz, c2ray, pyc2ray, 21cmfast, epfl, "
        "pinion, hdf5 or npy.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A fact that the files lack, such as box_size=100; repeatable."
    ),
]
ValuesAndFacts = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A value of the configuration, such as training.steps=2000, or a fact that the files lack, such "
        "as box_size=100; repeatable.",
    ),
]
ConfigValues = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A value of the configuration, such as seed=1; repeatable."
    ),
]
Xi = Annotated[
    Path,
    typer.Argument(metavar="XI", help="A store, file, folder or pattern with xi, as `reion predict` writes."),
]
XiFormat = Annotated[str | None, typer.Option(help="Format of the files with xi, as --format.")]
XiSettings = Annotated[
    list[str] | None,
    typer.Option("--xi-set", metavar="KEY=VALUE", help="A fact that the files with xi lack; repeatable."),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="BYTES",
        help="Memory that a process may take, such as 500MB; by default 2GiB, or less where there is less.",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option("--scheduler", help="Address or file of the Dask scheduler whose workers do the work."),
]
WorkerCount = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Start so many worker processes on this machine to do the work."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with what was interrupted, and refuse to begin anew.")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the cost in cells, bytes, memory and time, and do nothing else."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists and reion wrote it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; progress is on stderr.")]


def parse_bytes(text: str, option: str) -> int:
    """Number of bytes in a text such as 2GiB; an InputError that names `option` if it is no such text."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise InputError(f"expected {option} such as 2GiB or 500MB; received {text!r}") from error


def split_settings(texts: Sequence[str] | None, schema: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Sort the values of `--set` into those of a schema and facts about files.

    Parameters
    ----------
    schema
        Top-level keys of the schema. A nested key, such as `training.steps`, belongs to the schema if its
        first part does.

    Returns
    -------
    tuple
        The settings of the schema as they were given, and the facts as a mapping of key to value.

    Raises
    ------
    InputError
        If a fact is not of the form key=value, or has a key with a dot, which only keys of the schema have.
    """
    names = set(schema)
    own: list[str] = []
    facts: list[str] = []
    for text in texts or ():
        key = text.partition("=")[0].strip()
        first, dot, _ = key.partition(".")
        if dot and first not in names:
            raise InputError(
                f"--set {key}: expected {first} to be one of {', '.join(sorted(names))}; received {text!r}"
                + did_you_mean(first, names),
                hint="facts about files, such as box_size, have no dot",
            )
        (own if first in names else facts).append(text)
    return own, parse_settings(facts)


def parse_settings(texts: Sequence[str] | None) -> dict[str, str]:
    """The value of each key in `--set key=value`; InputError if a text is not of this form."""
    settings = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"expected --set key=value; received {text!r}")
        settings[key.strip()] = value.strip()
    return settings
