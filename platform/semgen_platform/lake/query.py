"""Questions to tables as SQL: DuckDB over the files that a Delta log lists at one version.

A glob over a table's folder would read rows that a later version deleted, so only listed files are read; DuckDB's own
delta and httpfs extensions cannot be had offline (DESIGN.md section 4, Queries), so the files of an object store come
through Arrow and Delta's client. A question that a user wrote can read these files and nothing else.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import pyarrow as pa

from semgen_platform.errors import ConfigError
from semgen_platform.lake.tables import SCHEMAS, schema_of
from semgen_platform.storage import Address, asked, delta_options, explained, is_local, persistently


def quoted(names: Sequence[str]) -> str:
    """Column names as a SQL list."""
    return ", ".join('"' + name.replace('"', '""') + '"' for name in names)


class Query:
    """Tables as views of their names, for the time of a `with` block.

    lake : its address.  versions : for each table its Delta version, or None for its head.
    """

    def __init__(self, lake: Address, versions: Mapping[str, int | None]) -> None:
        import duckdb

        self._lake = lake
        tables = {name: open_table(lake, name, version) for name, version in versions.items()}
        files = {name: _local_files(lake, name, table) if is_local(lake) else [] for name, table in tables.items()}
        self._connection: Any = duckdb.connect()
        self._connection.execute("SET TimeZone='UTC'")
        self._connection.execute(
            "SET allowed_paths=$files", {"files": [f for listed in files.values() for f in listed]}
        )
        self._connection.execute("SET enable_external_access=false")
        if not is_local(lake):  # else conditions on text reach Arrow as a type that it cannot compare
            self._connection.execute("SET disabled_optimizers='filter_pushdown,join_filter_pushdown'")
        for name, table in tables.items():
            if files[name]:
                literals = ", ".join("'" + file.replace("'", "''") + "'" for file in files[name])
                reader = f"read_parquet([{literals}], union_by_name=true)"
                self._connection.register(f"{name}_columns", SCHEMAS[name].empty_table())  # older files may lack some
                columns = f"SELECT * FROM {name}_columns UNION ALL BY NAME"
                self._connection.execute(f"CREATE VIEW {name} AS {columns} SELECT * FROM {reader}")
            else:
                self._connection.register(name, _remote_rows(lake, name, table))

    def __enter__(self) -> Query:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def add(self, name: str, table: pa.Table) -> None:
        """Let questions name an Arrow table."""
        self._connection.register(name, table)

    def define(self, name: str, sql: str) -> None:
        """Let questions name the result of another one."""
        self._connection.execute(f"CREATE VIEW {name} AS {sql}")

    def arrow(self, sql: str, **values: Any) -> pa.Table:
        """The answer as an Arrow table; `$name` in the text takes the value of that name."""
        import duckdb

        def answer() -> pa.Table:
            try:
                return self._connection.sql(sql, params=values or None).to_arrow_table()
            except duckdb.Error as error:
                if not is_local(self._lake) and "Generic S3 error" in str(error):
                    with explained(str(self._lake)):  # of what Delta's client said, only its text comes through Arrow
                        raise OSError(str(error)) from error
                raise

        return persistently(answer)

    def filtered(self, view: str, columns: Sequence[str] | None, where: str | None, order: Sequence[str]) -> pa.Table:
        """Rows of a view under a condition that a user wrote. Raises ConfigError that names the nearest column."""
        import duckdb

        known = self.columns(view)
        for column in columns or ():
            if column not in known:
                raise ConfigError(f"there is no column {column}{_nearest(column, known)}")
        chosen = quoted(columns) if columns else "*"
        condition = f"WHERE (\n{where}\n)" if where else ""
        try:
            return self.arrow(f"SELECT {chosen} FROM {view} {condition} ORDER BY {quoted(order)}")
        except duckdb.Error as error:
            if not where:
                raise
            raise ConfigError(_condition_fault(where, known, str(error))) from None

    def columns(self, view: str) -> list[str]:
        """Names of a view's columns."""
        return list(self._connection.sql(f"SELECT * FROM {view} LIMIT 0").columns)


def open_table(lake: Address, name: str, version: int | None = None) -> Any:
    """The DeltaTable at a version, or at its head. Raises ConfigError for a name that is no table's, StorageError."""
    from deltalake import DeltaTable

    schema_of(name)
    address, options = table_address(lake, name), delta_options(lake)
    return asked(str(lake), lambda: DeltaTable(address, version=version, storage_options=options))


def table_address(lake: Address, name: str) -> str:
    """Where a table lies, as the Delta library is told."""
    return f"{lake}/tables/{name}"


def _local_files(lake: Address, name: str, table: Any) -> list[str]:
    """Absolute paths of the Parquet files that make up a table."""
    listed = pa.table(table.get_add_actions())
    return [f"{table_address(lake, name)}/{path}" for path in listed["path"].to_pylist()]


def _remote_rows(lake: Address, name: str, table: Any) -> Any:
    """What DuckDB scans: a dataset that fetches the columns it needs, or an empty table where there is no file."""
    if is_local(lake) or not table.file_uris():
        return SCHEMAS[name].empty_table()
    return asked(str(lake), table.to_pyarrow_dataset)


def _nearest(column: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(column, known, n=1, cutoff=0.4)
    return f"; did you mean {match[0]}?" if match else f"; there are {', '.join(known)}"


def _condition_fault(where: str, known: Sequence[str], message: str) -> str:
    _, found, rest = message.partition('Referenced column "')
    if found:
        column = rest.partition('"')[0]
        return f"the condition {where!r} names {column}, which is no column{_nearest(column, known)}"
    return f"the condition {where!r} is no SQL condition: {message.splitlines()[0]}"
