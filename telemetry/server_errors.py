"""ClickHouse's error codes, sorted by what to do about them (``src/Common/ErrorCodes.cpp`` in its source)."""

from __future__ import annotations

import re
from typing import Final

from telemetry.warehouse import InsertRejected, QueryFailed, WarehouseUnavailable

# The data cannot be parsed, converted or stored: trying again gives the same answer.
DATA_CODES: Final = frozenset(
    {
        6,  # CANNOT_PARSE_TEXT
        7,  # INCORRECT_NUMBER_OF_COLUMNS
        20,  # NUMBER_OF_COLUMNS_DOESNT_MATCH
        25,  # CANNOT_PARSE_ESCAPE_SEQUENCE
        26,  # CANNOT_PARSE_QUOTED_STRING
        27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
        33,  # CANNOT_READ_ALL_DATA
        38,  # CANNOT_PARSE_DATE
        41,  # CANNOT_PARSE_DATETIME
        53,  # TYPE_MISMATCH
        69,  # ARGUMENT_OUT_OF_BOUND
        70,  # CANNOT_CONVERT_TYPE
        72,  # CANNOT_PARSE_NUMBER
        117,  # INCORRECT_DATA
        131,  # TOO_LARGE_STRING_SIZE
        321,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
        349,  # CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
        376,  # CANNOT_PARSE_UUID
        469,  # VIOLATED_CONSTRAINT
    }
)
# The server is well but cannot do it now, or does not let us in: an operator's matter, and worth another try.
UNAVAILABLE_CODES: Final = frozenset(
    {
        74,  # CANNOT_READ_FROM_FILE_DESCRIPTOR
        75,  # CANNOT_WRITE_TO_FILE_DESCRIPTOR
        76,  # CANNOT_OPEN_FILE
        81,  # UNKNOWN_DATABASE
        192,  # UNKNOWN_USER
        193,  # WRONG_PASSWORD
        194,  # REQUIRED_PASSWORD
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        209,  # SOCKET_TIMEOUT
        210,  # NETWORK_ERROR
        225,  # NO_ZOOKEEPER
        242,  # TABLE_IS_READ_ONLY
        243,  # NOT_ENOUGH_SPACE
        252,  # TOO_MANY_PARTS
        319,  # UNKNOWN_STATUS_OF_INSERT
        516,  # AUTHENTICATION_FAILED
        999,  # KEEPER_EXCEPTION
    }
)
TOO_SLOW_CODES: Final = frozenset({159, 160})  # TIMEOUT_EXCEEDED, TOO_SLOW
TOO_LARGE_CODES: Final = frozenset({158, 191, 241, 307, 396})  # TOO_MANY_ROWS, SET_SIZE, MEMORY, BYTES, RESULT
UNKNOWN_DATABASE: Final = 81

_CODE: Final = re.compile(r"Code: (\d+)")
_PREFIX: Final = re.compile(r"^(?:Code: \d+\.\s*)?(?:DB::Exception:\s*)+(?:Code: \d+\.\s*DB::Exception:\s*)?")
_MAX_MESSAGE_CHARS: Final = 500


def code_of(message: str) -> int:
    """Return the code that a message of the engine starts with, or 0."""
    match = _CODE.search(message)
    return int(match.group(1)) if match else 0


def sentence_of(message: str) -> str:
    """Return what a message of the engine says, without codes, stack traces and its version."""
    text = message.partition("Stack trace:")[0].partition("\n")[0].strip()
    text = re.sub(r"\s*\(version [^)]*\)", "", re.sub(r"\s*\([A-Z_]+\)\s*$", "", text))
    return _PREFIX.sub("", text).strip()[:_MAX_MESSAGE_CHARS]


def insert_error(code: int, message: str) -> Exception:
    """Return the error that an insert raises."""
    if code in DATA_CODES:
        return InsertRejected(f"ClickHouse refuses the events: {sentence_of(message)}")
    return WarehouseUnavailable(f"ClickHouse did not take the events: {sentence_of(message)}")


def migration_error(_: int, message: str) -> Exception:
    """Return the error that a migration raises: it can be done once an operator, or time, has helped."""
    return WarehouseUnavailable(f"ClickHouse did not take the tables: {sentence_of(message)}")


def query_error(code: int, message: str) -> Exception:
    """Return the error that a question raises."""
    if code in UNAVAILABLE_CODES:
        return WarehouseUnavailable(f"ClickHouse cannot answer now: {sentence_of(message)}")
    if code in TOO_SLOW_CODES:
        return QueryFailed("the query took longer than it may; ask for less", "query_too_slow")
    if code in TOO_LARGE_CODES:
        return QueryFailed("the query needs more memory or returns more than it may; ask for less", "query_too_large")
    return QueryFailed(sentence_of(message) or "ClickHouse refused the query")
