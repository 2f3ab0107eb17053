"""``skecg embed --format omop``: features as rows of the table ``waveform_feature`` of OMOP's waveform extension.

The columns are those of the extension's specification (OHDSI Waveform working group, November 2025): one row for each
number, with the ids of the recording it was computed from. Where a record failed there is no row.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from skecg.archives.files import FeatureTable, as_text, spreadsheet_cell
from skecg.cli.console import say
from skecg.errors import ParameterError

if TYPE_CHECKING:
    from skecg.datasets.tables import Columns

__all__ = ["COLUMNS", "add_omop_options", "check_omop", "omop_writer", "read_ids"]

#: Of ``waveform_feature``, in the order of the specification.
COLUMNS = (
    "waveform_feature_id",
    "waveform_occurrence_id",
    "waveform_registry_id",
    "waveform_channel_metadata_id",
    "measurement_id",
    "observation_id",
    "algorithm_concept_id",
    "algorithm_source_value",
    "anatomic_site_concept_id",
    "waveform_feature_start_timestamp",
    "waveform_feature_end_timestamp",
    "is_feature_overflow",
    "value_as_number",
    "value_as_concept_id",
    "value_as_string",
    "value_is_a_registry_file",
    "unit_concept_id",
    "unit_source_value",
)
_IDS = ("waveform_occurrence_id", "waveform_registry_id", "waveform_channel_metadata_id")
# These come from skecg; all others a table of ids may fill.
_OURS = (
    *("waveform_feature_id", "algorithm_source_value"),
    *("is_feature_overflow", "value_as_number", "value_is_a_registry_file"),
)
_NO_CONCEPT = "0"  # OMOP's number for what has no standard concept


def add_omop_options(parser: argparse.ArgumentParser) -> None:
    """Add the format and where the ids of a database come from."""
    group = parser.add_argument_group("OMOP")
    group.add_argument("--format", metavar="F", help="omop: rows of waveform_feature, in a .csv file")
    group.add_argument(
        "--omop-ids",
        type=Path,
        metavar="TABLE",
        help="path and waveform_occurrence_id, waveform_registry_id, waveform_channel_metadata_id of each recording",
    )


def check_omop(arguments: argparse.Namespace, *, archive: bool) -> None:
    """Raise for options that do not go together."""
    if arguments.format not in (None, "omop"):
        raise ParameterError(f"Got --format {arguments.format!r}, expected omop. For others the name of OUT says it.")
    if arguments.format is None and arguments.omop_ids is not None:
        raise ParameterError("Got --omop-ids without --format omop. Pass both.")
    if arguments.format == "omop" and (archive or arguments.out.suffix.lower() != ".csv"):
        raise ParameterError(f"Got --format omop for {str(arguments.out)!r}, expected one file that ends in .csv.")


def read_ids(table: Path | None, paths: Sequence[str]) -> Columns | None:
    """Return the ids of a database for each recording.

    Raises
    ------
    ParameterError
        When a column or a recording is missing, or a column is one that is written here.
    """
    if table is None:
        return None
    from skecg.tabular.table import columns_of

    columns, _ = columns_of(paths, table)
    # A column without a value, as forms have it, contradicts nothing.
    if ours := [name for name in _OURS if any(columns.get(name, []))]:
        raise ParameterError(
            f"Got --omop-ids {str(table)!r} with {', '.join(ours)}, which skecg writes itself; expected other columns "
            "of waveform_feature. Leave them out."
        )
    for name in _IDS:
        cells = columns.get(name, [])
        n_missing = sum(cell is None for cell in cells) if cells else len(paths)
        if n_missing:
            raise ParameterError(
                f"Got --omop-ids {str(table)!r} without {name} for {n_missing} of {len(paths)} recordings, expected "
                "one for each. Take them from waveform_registry and waveform_channel_metadata."
            )
    return {name: cells for name, cells in columns.items() if name in COLUMNS and name not in _OURS}


def omop_writer(ids: Columns | None) -> Callable[[FeatureTable, Path], None]:
    """Return what writes the rows, and where no ids are known a table of the file that each number stands for."""

    def write(table: FeatureTable, path: Path) -> None:
        if ids is None:  # first: where there are rows, all is there
            registry = path.with_name(f"{path.name}.registry.csv")
            _write_registry(table.paths, registry)
            say(f"waveform_registry_id counts the recordings from 1; {str(registry)!r} says which is which")
        _write_rows(table, ids, path)

    return write


def _write_rows(table: FeatureTable, ids: Columns | None, path: Path) -> None:
    """Write the rows; only the user may read them."""
    from skecg.io.files import replacing

    with replacing(path, private=True) as file, as_text(file) as text:
        writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_rows(table, ids))


def _write_registry(paths: Sequence[str], path: Path) -> None:
    """Write the file of each number, in columns of ``waveform_registry``."""
    from skecg.io.files import replacing

    with replacing(path, private=True) as file, as_text(file) as text:
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["waveform_registry_id", "waveform_source_file_uri", "file_extension_source_value"])
        rows.writerows([n, spreadsheet_cell(p), Path(p).suffix] for n, p in enumerate(paths, start=1))


def _rows(table: FeatureTable, ids: Columns | None) -> Iterator[Mapping[str, object]]:
    """Yield a row for each number of the recordings that could be embedded."""
    algorithm = _algorithm(table)
    row = 0
    for paths, features in table.blocks():
        # Unequal to itself is NaN: the row of a record that failed.
        complete = (features == features).all(axis=1)
        # As text from float32: the shortest digits that give the number back, not float64's tail of it.
        for k, numbers in enumerate(features.astype(str)):
            if complete[k]:
                of_record = _of_record(row + k, ids)
                # Ids follow from the place, so that a run that was repeated gives the same ones.
                first = (row + k) * len(table.feature_names) + 1
                for place, (name, value) in enumerate(zip(table.feature_names, numbers, strict=True)):
                    yield of_record | {
                        "waveform_feature_id": first + place,
                        "algorithm_source_value": f"{algorithm} {name}",
                        "value_as_number": value,
                    }
        row += len(paths)


def _of_record(row: int, ids: Columns | None) -> dict[str, object]:
    """Return what all rows of a recording share; its features are of all its channels together."""
    numbered = {"waveform_registry_id": str(row + 1)}
    # A cell without a number is what a column that is not there is.
    known = numbered if ids is None else {name: cell for name, cells in ids.items() if (cell := cells[row]) is not None}
    ours = {"is_feature_overflow": "TRUE", "value_is_a_registry_file": "FALSE"}
    return {"algorithm_concept_id": _NO_CONCEPT, **known, **ours}


def _algorithm(table: FeatureTable) -> str:
    """Return what computed the features, in few enough letters for a database."""
    made = table.provenance
    # The name alone: a folder of this machine means nothing in a database.
    model = Path(str(made["model"])).name[:80]
    return f"skecg {made['skecg']} {model} {made['weights_sha256'][:12]} {made['pooling']}"
