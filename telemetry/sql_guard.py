"""The guard: turns SQL that somebody typed into SQL that can only read that somebody's events.

The engine's own means do not suffice: chdb has no users, and its ``readonly = 1`` does not stop the function ``file``.
So the text is parsed, every node, function and table of the tree must be on a list of what is allowed, and the SQL that
runs is written anew from the tree: what the parser did not understand cannot reach ClickHouse. The one table is
``events``; each mention becomes a subquery that holds the rows of the allowed organizations and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import sqlglot
from sqlglot import exp
from sqlglot.dialects.clickhouse import ClickHouse
from sqlglot.errors import SqlglotError
from sqlglot.generators.clickhouse import ClickHouseGenerator
from sqlglot.parsers.clickhouse import ClickHouseParser

from telemetry.allowed_functions import is_allowed_function
from telemetry.literals import literal
from telemetry.warehouse import DEFAULT_LIMITS

MAX_SQL_CHARS: Final = 20_000
"""Parsing takes about a millisecond per thousand characters, on the event loop's machine."""
MAX_NODES: Final = 5_000
MAX_DEPTH: Final = 100
"""Keeps parser, guard and engine off their recursion limits."""

EVENT_COLUMNS: Final = (
    "event_id",
    "type",
    "occurred_at",
    "received_at",
    "device_id",
    "model",
    "version",
    "from_version",
    "bytes",
    "full_bytes",
    "duration_ms",
    "encoding",
    "error",
    "os",
    "os_version",
    "device_model",
    "app_version",
    "locale",
    "organization",
    "application",
    "environment",
    "organization_id",
    "application_id",
)
"""The columns of the view ``events``, in its order."""

_KEY_COLUMNS: Final = frozenset({"application_id", "environment", "model", "type", "device_id"})
"""Columns that every delivery of an event shares, in the order of the table: a condition on one of them leaves the same
rows before as after deliveries are told apart, and before that it spares ClickHouse the other rows."""
_EVENTS: Final = "events"
_RESERVED: Final = "skafos_"
"""Names that the guard itself writes begin with this, and no other may: in ClickHouse a name given by ``WITH`` reaches
into subqueries, so the condition on the organization must use names that nobody else can give a meaning to."""
_CTE_PREFIX: Final = _RESERVED + "with_"
"""Common table expressions are renamed, so that none can hide ``events`` or end up naming a real table."""
_ALLOWED: Final = _RESERVED + "allowed"
_IDENTIFIER: Final = re.compile(r"[\w .:%()*+/,<>=?!-]{1,200}")
"""What a quoted name may hold; quotes and backslashes, which lexers disagree about, are not among it."""


class ForbiddenQuery(ValueError):
    """The question is not one that may be asked; the message says why."""


class _Dialect(ClickHouse):
    """ClickHouse, with functions kept under the names they were written with, so that all go by the list."""

    class Parser(ClickHouseParser):
        FUNCTIONS: ClassVar[dict[str, Any]] = {}

    class Generator(ClickHouseGenerator):
        def literal_sql(self, expression: exp.Literal) -> str:
            return literal(str(expression.this)) if expression.is_string else str(expression.this)

        def interval_sql(self, expression: exp.Interval) -> str:
            # 18.16 takes a number only, where sqlglot writes a string.
            amount, unit = expression.this, expression.args.get("unit")
            number = str(amount.this) if isinstance(amount, exp.Literal) else self.sql(amount)
            return f"INTERVAL {number} {self.sql(unit)}" if unit else f"INTERVAL {self.sql(amount)}"


_NODES: Final = (
    # statements and their parts
    exp.Select, exp.SetOperation, exp.Subquery, exp.With, exp.CTE, exp.From, exp.Join, exp.Table, exp.TableAlias,
    exp.Where, exp.PreWhere, exp.Group, exp.GroupingSets, exp.Rollup, exp.Cube, exp.Having, exp.Qualify, exp.Order,
    exp.Ordered, exp.WithFill, exp.Limit, exp.Offset, exp.Fetch, exp.LimitOptions, exp.Distinct, exp.Final,
    # names and values
    exp.Column, exp.Identifier, exp.Star, exp.Alias, exp.Literal, exp.Boolean, exp.Null, exp.Tuple, exp.Paren,
    exp.Bracket, exp.Dot, exp.Var, exp.DataType, exp.DataTypeParam, exp.Interval, exp.Lambda,
    # operators
    exp.Binary, exp.Unary, exp.Between, exp.In,
    # functions with a syntax of their own; the others are checked by name
    exp.Cast, exp.Case, exp.If, exp.Extract, exp.Substring, exp.Trim, exp.StrPosition, exp.Struct, exp.Array,
    exp.Explode, exp.Exists, exp.And, exp.Or, exp.Xor, exp.VarMap, exp.Map, exp.ArgMax, exp.ArgMin, exp.Quantile,
    exp.Median, exp.Ceil, exp.Floor, exp.CurrentDate, exp.Window, exp.WindowSpec, exp.Filter,
)  # fmt: skip
_NAMED_FUNCTIONS: Final = (
    exp.Anonymous, exp.AnonymousAggFunc, exp.CombinedAggFunc, exp.ParameterizedAgg, exp.CombinedParameterizedAgg,
)  # fmt: skip
_FORBIDDEN_ARGUMENTS: Final = {
    "settings": "SETTINGS",
    "format": "FORMAT",
    "into": "INTO",
    "sample": "SAMPLE",
    "locks": "FOR UPDATE",
    "hint": "hints",
    "options": "OPTION",
    "for_": "FOR",
    "pivots": "PIVOT",
    "laterals": "LATERAL",
    "match": "MATCH_RECOGNIZE",
}
_TABLE_ARGUMENTS: Final = frozenset({"this", "alias"})


def guard(sql: str, organization_ids: Sequence[str], max_rows: int = DEFAULT_LIMITS.rows) -> str:
    """Return SQL that answers ``sql`` from the events of these organizations alone.

    Args:
        sql: one ``SELECT`` over ``events``; subqueries, joins, ``WITH`` and ``UNION`` are fine.
        organization_ids: whose events may be read; nobody's when it is empty.
        max_rows: a question without ``LIMIT`` gets one of a row more than this, so that it can be told to be cut off.

    Raises:
        ForbiddenQuery: it is something else, or reaches for something else.
    """
    try:
        tree = _parse(sql)
        _check_nodes(tree)
        _rename_common_tables(tree)
        _narrow_tables(tree, organization_ids)
        _limit_rows(tree, max_rows + 1)
        return tree.sql(dialect=_Dialect, comments=False)
    except RecursionError:
        raise ForbiddenQuery("the query is nested too deeply") from None


def _parse(sql: str) -> exp.Select | exp.SetOperation:
    if len(sql) > MAX_SQL_CHARS:
        raise ForbiddenQuery(f"a query has at most {MAX_SQL_CHARS} characters")
    try:
        statements = [one for one in sqlglot.parse(sql, read=_Dialect) if one is not None]
    except SqlglotError as error:
        raise ForbiddenQuery(f"the query cannot be read: {_first_line(error)}") from None
    if len(statements) != 1:
        raise ForbiddenQuery("ask exactly one SELECT")
    (tree,) = statements
    if not isinstance(tree, exp.Select | exp.SetOperation):
        raise ForbiddenQuery("only SELECT is allowed")
    return tree


def _first_line(error: SqlglotError) -> str:
    return re.sub(r"\x1b\[\d*m", "", str(error)).partition("\n")[0]


def _check_nodes(tree: exp.Expr) -> None:
    for count, node in enumerate(tree.walk()):
        if count >= MAX_NODES or node.depth > MAX_DEPTH:
            raise ForbiddenQuery("the query is too large")
        _check_node(node)


def _check_node(node: exp.Expr) -> None:
    if isinstance(node, _NAMED_FUNCTIONS):
        if not is_allowed_function(node.name):
            raise ForbiddenQuery(f"the function {node.name!r} is not allowed")
    elif not isinstance(node, _NODES):
        raise ForbiddenQuery(f"{type(node).__name__} is not allowed in a query")
    for argument, written in _FORBIDDEN_ARGUMENTS.items():
        if node.args.get(argument):
            raise ForbiddenQuery(f"{written} is not allowed in a query")
    if isinstance(node, exp.Identifier):
        _check_name(str(node.this))
    elif isinstance(node, exp.In):
        _check_in(node)
    elif isinstance(node, exp.Var) and not re.fullmatch(r"\w+", str(node.this)):
        raise ForbiddenQuery("a word holds characters that are not allowed")
    elif isinstance(node, exp.Literal) and not node.is_string:
        _check_number(str(node.this))


def _check_name(name: str) -> None:
    if not _IDENTIFIER.fullmatch(name):
        raise ForbiddenQuery("a name holds characters that are not allowed")
    if name.lower().startswith(_RESERVED):
        raise ForbiddenQuery(f"names that begin with {_RESERVED} are reserved")


def _check_in(node: exp.In) -> None:
    """After IN a bare name is a table's name to ClickHouse, in parentheses too; there must be values or a SELECT."""
    values: list[Any] = [node.args.get("field"), *node.expressions]
    while values:
        value = values.pop()
        if isinstance(value, exp.Paren | exp.Alias):
            values.append(value.this)
        elif isinstance(value, exp.Tuple | exp.Array):
            values.extend(value.expressions)
        elif isinstance(value, exp.Column | exp.Identifier | exp.Dot | exp.Table | exp.Var | exp.Star | exp.Bracket):
            raise ForbiddenQuery("after IN, write values or a SELECT")


def _check_number(text: str) -> None:
    if not re.fullmatch(r"[0-9.]+(?:[eE][+-]?[0-9]+)?", text):
        raise ForbiddenQuery(f"{text!r} is not a number")


def _rename_common_tables(tree: exp.Expr) -> None:
    """Give every common table expression, and each use of it, a name that no real table has."""
    tables = [cte for cte in tree.find_all(exp.CTE) if not cte.args.get("scalar")]
    names = {cte.alias for cte in tables}
    if _EVENTS in names:
        raise ForbiddenQuery("WITH must not redefine events")
    for cte in tables:
        if cte.args["alias"].args.get("columns"):
            raise ForbiddenQuery("column names after a WITH name are not allowed")
        cte.set("alias", exp.TableAlias(this=exp.to_identifier(_CTE_PREFIX + cte.alias, quoted=True)))
    for table in list(tree.find_all(exp.Table)):
        if table.name in names and not table.args.get("db"):
            _check_table_arguments(table)
            alias = table.alias or table.name
            table.replace(
                exp.Table(
                    this=exp.to_identifier(_CTE_PREFIX + table.name, quoted=True),
                    alias=exp.TableAlias(this=exp.to_identifier(alias, quoted=True)),
                )
            )


def _narrow_tables(tree: exp.Expr, organization_ids: Sequence[str]) -> None:
    """Put a subquery over the allowed rows in the place of every ``events``; refuse every other table."""
    for final in list(tree.find_all(exp.Final)):
        final.replace(final.this)  # events is de-duplicated already
    columns = _KEY_COLUMNS - _given_names(tree)
    for table in list(tree.find_all(exp.Table)):
        if not isinstance(table.this, exp.Identifier):
            raise ForbiddenQuery("table functions are not allowed; the table is events")
        if table.name.startswith(_CTE_PREFIX):  # written by us: nobody else's name may begin so
            continue
        _check_table_arguments(table)
        if table.name != _EVENTS:
            raise ForbiddenQuery(f"there is no table {table.name!r} to ask; the table is events")
        table.replace(_allowed_events(table.alias or _EVENTS, organization_ids, _key_conditions(table, columns)))


def _given_names(tree: exp.Expr) -> set[str]:
    """Return the names that the question gives to values: in ClickHouse they hide columns, in conditions too."""
    names = {alias.alias for alias in tree.find_all(exp.Alias, exp.CTE)}
    return names | {str(name.this) for function in tree.find_all(exp.Lambda) for name in function.expressions}


def _key_conditions(table: exp.Table, columns: frozenset[str]) -> list[exp.Expr]:
    """Return what the question demands of columns of the key, where the table is all that a SELECT reads.

    18.16 does not bring conditions into a subquery by itself; without them it reads all that an organization has.
    """
    select = table.parent.parent if isinstance(table.parent, exp.From) else None
    where = select.args.get("where") if isinstance(select, exp.Select) and not select.args.get("joins") else None
    if where is None:
        return []
    parts = where.this.flatten() if isinstance(where.this, exp.And) else [where.this]
    found = (_key_condition(part, columns, table.alias or _EVENTS) for part in parts)
    return [condition for condition in found if condition is not None]


def _key_condition(part: exp.Expr, columns: frozenset[str], table: str) -> exp.Expr | None:
    """Return ``column = 'text'`` or ``column IN ('text', …)`` anew, for the table below; None for anything else."""
    texts = [part.expression] if type(part) is exp.EQ else part.expressions if type(part) is exp.In else []
    column = part.this
    if not texts or not isinstance(column, exp.Column) or column.name not in columns or column.table not in ("", table):
        return None
    if not all(isinstance(text, exp.Literal) and text.is_string for text in texts):
        return None
    return exp.In(this=_own(column.name), expressions=[exp.Literal.string(text.this) for text in texts])


def _check_table_arguments(table: exp.Table) -> None:
    if table.args.get("db") or table.args.get("catalog"):
        raise ForbiddenQuery("name the table without a database; the table is events")
    extra = [name for name, value in table.args.items() if value and name not in _TABLE_ARGUMENTS]
    alias = table.args.get("alias")
    if extra or (alias is not None and alias.args.get("columns")):
        raise ForbiddenQuery("the table takes an alias and nothing else")


def _allowed_events(alias: str, organization_ids: Sequence[str], conditions: Sequence[exp.Expr]) -> exp.Subquery:
    """Return ``(SELECT … FROM raw_events FINAL WHERE organization_id IN (…)) AS alias``.

    The columns of the view, from the table below it, so that the condition reaches the primary key on every version.
    """
    allowed = [exp.Literal.string(one) for one in organization_ids]
    nobody = exp.EQ(this=exp.Literal.number(1), expression=exp.Literal.number(0))
    mine = exp.In(this=_own("organization_id"), expressions=allowed) if allowed else nobody
    columns = [exp.alias_(_own(name), name, quoted=True) for name in EVENT_COLUMNS]
    table = exp.to_table("raw_events", alias=_ALLOWED)
    select = exp.select(*columns).from_(exp.Final(this=table)).where(mine, *conditions)
    return exp.Subquery(this=select, alias=exp.TableAlias(this=exp.to_identifier(alias, quoted=True)))


def _own(column: str) -> exp.Column:
    return exp.column(column, table=_ALLOWED, quoted=True)


def _limit_rows(tree: exp.Select | exp.SetOperation, rows: int) -> None:
    """Bound the rows of a plain SELECT; of others, the engine bounds the bytes and the reader the rows.

    A union cannot take a LIMIT of its own in ClickHouse, and ``LIMIT … BY`` does not bound the whole.
    """
    if not isinstance(tree, exp.Select) or isinstance(tree.args.get("limit"), exp.Fetch):
        return
    limit = tree.args.get("limit")
    if limit is None:
        tree.set("limit", exp.Limit(expression=exp.Literal.number(rows)))
    elif isinstance(limit.expression, exp.Literal) and not limit.expressions and _exceeds(limit.expression, rows):
        limit.set("expression", exp.Literal.number(rows))


def _exceeds(number: exp.Literal, rows: int) -> bool:
    return not str(number.this).isdigit() or int(str(number.this)) > rows
