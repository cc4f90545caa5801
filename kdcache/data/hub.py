"""A dataset of the Hugging Face Hub, or a local folder, to records; by the library `datasets`."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
from datasets.exceptions import DatasetsError

from kdcache.core.errors import DataError
from kdcache.data.records import Records
from kdcache.data.sources import HubSource


def read_hub(hub: HubSource, split: str, columns: Sequence[str]) -> Records:
    """The records of one split.

    A class label becomes its name there (`int2str`), since the order of classes there need not be ours; the Hub's -1
    (hidden) becomes None.

    Args:
        hub: which dataset.
        split: name there.
        columns: those wanted.

    Raises:
        DataError: it cannot be reached, needs a script, has no such configuration or split, or no rows.
    """
    place = f"hub dataset {hub.id}{f' ({hub.config})' if hub.config else ''}, split {split}"
    try:
        table = datasets.load_dataset(hub.id, hub.config, revision=hub.revision, split=split)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        # "An error occurred while generating the dataset" says less than its cause
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise DataError(
            f"cannot load the {place}: {reason}; check id, config, revision and splits, the connection and "
            f"HF_HUB_OFFLINE, or give files instead"
        ) from None
    names = tuple(table.column_names)
    features = dict(table.features)
    table = table.select_columns([name for name in dict.fromkeys(columns) if name in names])
    rows = table.to_list()
    for name in table.column_names:
        feature = features[name]
        inner = getattr(feature, "feature", None)  # of a list: tags
        if isinstance(feature, datasets.ClassLabel):
            for row in rows:
                row[name] = _name_of(row[name], feature)
        elif isinstance(inner, datasets.ClassLabel):
            for row in rows:
                row[name] = None if row[name] is None else [_name_of(value, inner) for value in row[name]]
    return Records(place=place, columns=names, unit="row", numbers=range(1, len(rows) + 1), rows=rows)


def _name_of(value: int | None, feature: datasets.ClassLabel) -> str | None:
    return None if value is None or value < 0 else str(feature.int2str(value))
