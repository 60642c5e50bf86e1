"""The store in SurrealDB: embedded in this process (`surrealkv://`), or a server (`ws://`).

The only file that calls the SurrealDB SDK. Written for SDK 2.0.0, whose embedded engine is 2.3.10;
the SurrealQL here is what 2.3 and 3.x both parse. The embedded calls run on threads of their own
and do not block the event loop.

Records: `event:[shard, position]`, `row:[projection, key]`, `checkpoint:shard`, in namespace
`mesh`, one database per tenant.
"""
# The SDK returns whatever the database sends: Any from here to the dataclasses.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import asyncio
import gc
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import product
from typing import Any

import anyio
from surrealdb import RecordID, SurrealError
from surrealdb.connections.async_embedded import AsyncEmbeddedSurrealConnection
from surrealdb.connections.async_ws import AsyncWsSurrealConnection
from websockets.exceptions import WebSocketException

from mesh.core.subject import check_name
from mesh.errors import CheckpointConflict, HistoryCorrupt, MeshError, Unavailable
from mesh.store import column
from mesh.store.folder import check_synced, folder_of, is_ready, locked, make_ready
from mesh.store.port import GENESIS, Checkpoint, Commit, EventQuery, Row, StoredEvent

__all__ = ["SurrealStore", "open_surreal"]

_EMBEDDED = "surrealkv://"
_REMOTE = ("ws://", "wss://")
_ANSWER_S = 30.0
_LOST = (SurrealError, WebSocketException, OSError, RuntimeError, KeyError)
"""What the SDK raises; RuntimeError for all of the embedded engine, KeyError when a socket dies."""
_CLOCKS_S = 60.0
"""How far the broker's time may run backwards along the log, when its leader changes."""
_END = 2**53 - 1
_SHARD = re.compile(r"s\d+")
_NAME = re.compile(r"[a-z_]+")

_SCHEMA = """
DEFINE TABLE IF NOT EXISTS event SCHEMALESS;
DEFINE INDEX IF NOT EXISTS event_task ON event FIELDS task_id, position;
DEFINE EVENT IF NOT EXISTS append_only ON event WHEN $event != 'CREATE'
    THEN { THROW 'mesh:append-only' };
DEFINE TABLE IF NOT EXISTS row SCHEMALESS;
DEFINE INDEX IF NOT EXISTS row_rank ON row FIELDS projection, rank;
DEFINE INDEX IF NOT EXISTS row_state ON row FIELDS projection, tags.state, rank;
DEFINE INDEX IF NOT EXISTS row_owner ON row FIELDS projection, tags.owner, rank;
DEFINE TABLE IF NOT EXISTS checkpoint SCHEMALESS;
"""
_REBUILD = """
REBUILD INDEX IF EXISTS event_task ON event;
REBUILD INDEX IF EXISTS row_rank ON row;
REBUILD INDEX IF EXISTS row_state ON row;
REBUILD INDEX IF EXISTS row_owner ON row;
"""
_COMMIT = """
BEGIN;
LET $stored = (SELECT * FROM ONLY $cursor);
IF ($stored.position ?? 0) != $position OR ($stored.chain ?? $genesis) != $chain {
    THROW 'mesh:conflict:' + <string>($stored.position ?? 0)
};
INSERT INTO event $events RETURN NONE;
DELETE $gone RETURN NONE;
INSERT INTO row $rows
    ON DUPLICATE KEY UPDATE rank = $input.rank, tags = $input.tags, state = $input.state
    RETURN NONE;
UPSERT $cursor CONTENT $checkpoint RETURN NONE;
COMMIT;
"""


@asynccontextmanager
async def open_surreal(
    url: str, *, tenant: str = "default", credentials: tuple[str, str] | None = None
) -> AsyncGenerator["SurrealStore"]:
    """A tenant's store; the folder is locked until this is left.

    Args:
        url: `surrealkv://<folder>` or just a folder: embedded. `ws://` or `wss://`: a server.
        tenant: Names the database.
        credentials: User and password of a server.

    Raises:
        ConfigError: The URL is of no kind known here, or the environment does not make the
            embedded engine sync its commits.
        StoreLocked: Another process has the folder open.
        Unavailable: The database cannot be opened.
    """
    check_name(tenant)
    if url.startswith(_REMOTE):
        async with _connected(_Link(url, tenant, credentials)) as link:
            yield SurrealStore(link)
        return
    folder = folder_of(url.removeprefix(_EMBEDDED))
    check_synced()
    with locked(folder):
        if not is_ready(folder):
            async with _connected(_Link(f"{_EMBEDDED}{folder}", tenant)):
                pass
            make_ready(folder)
        async with _connected(_Link(f"{_EMBEDDED}{folder}", tenant)) as link:
            await _mend(link)
            yield SurrealStore(link)


@asynccontextmanager
async def _connected(link: "_Link") -> AsyncGenerator["_Link"]:
    try:
        await link.query(_SCHEMA)
        yield link
    finally:
        with anyio.move_on_after(5, shield=True):
            await link.close()


async def _mend(link: "_Link") -> None:
    """Make the indexes whole again after damage.

    The engine, opened on a damaged file, keeps what stands before the damage, even between a
    record and its index. It shows in events above their checkpoint.
    """
    marks = {
        mark["id"].id: mark["position"]
        for mark in (await link.query("SELECT id, position FROM checkpoint"))[-1]
    }
    for shard in {*marks, "s0"}:
        above = _events(shard, marks.get(shard, 0) + 1, _END)
        if (await link.query(f"SELECT VALUE position FROM {above} LIMIT 1"))[-1]:
            await link.query(_REBUILD)
            return


class SurrealStore:
    """One tenant's database; see `Store` for the contract."""

    def __init__(self, link: "_Link") -> None:
        self._link = link
        self._writer = anyio.Lock()

    async def commit(self, commit: Commit, *, expected: Checkpoint) -> None:
        """Write one transaction, or nothing; see `Store.commit`.

        It runs to its end when the caller is cancelled: a half-known write helps nobody.
        """
        after = commit.checkpoint
        cursor = _cursor(after.shard)
        values = {
            "cursor": cursor,
            "position": expected.position,
            "chain": expected.chain,
            "genesis": GENESIS,
            "events": [
                {"id": _event_id(event)} | column.event_columns(event) for event in commit.events
            ],
            "rows": [
                {"id": _row_id(row.projection, row.key)} | column.row_columns(row)
                for row in commit.rows
                if row.state is not None
            ],
            "gone": [_row_id(r.projection, r.key) for r in commit.rows if r.state is None],
            "checkpoint": column.checkpoint_columns(after),
        }
        with anyio.CancelScope(shield=True):
            async with self._writer:
                try:
                    await self._link.query(_COMMIT, values)
                except _Refused as error:
                    raise _commit_error(str(error), expected) from error

    async def checkpoint(self, shard: str) -> Checkpoint:
        """The stored checkpoint, or the default one."""
        found = await self._one("SELECT * FROM ONLY $cursor", {"cursor": _cursor(shard)})
        return column.read_checkpoint(shard, found) if found else Checkpoint(shard=shard)

    async def events(self, query: EventQuery) -> list[StoredEvent]:
        """Events that match, ascending; see `Store.events`."""
        first, last = query.first, query.last or _END
        where, values = column.conditions(query)
        if query.task_id:
            # The index gives them in this order; the sort makes sure.
            sql = (
                f"SELECT {column.EVENT} FROM event WHERE task_id = $task_id"
                f" AND position >= {first} AND position <= {last} AND shard = $shard{where}"
                f" ORDER BY position LIMIT {query.limit}"
            )
            values |= {"task_id": query.task_id, "shard": query.shard}
        else:
            if query.since or query.until:
                first, last = await self._narrowed(query)
            sql = (
                f"SELECT {column.EVENT} FROM {_events(query.shard, first, last)}"
                f"{where.replace(' AND', ' WHERE', 1)} LIMIT {query.limit}"
            )
        found = await self._one(sql, values)
        return [column.read_event(query.shard, event) for event in found]

    async def count(self, shard: str) -> tuple[int, int, int]:
        """First position, last position and number of the events that stand; zeros if none."""
        every = _events(shard, 0, _END)
        counted = await self._one(f"SELECT count() FROM {every} GROUP ALL")
        if not counted or not counted[0]["count"]:
            return 0, 0, 0
        first = (await self._one(f"SELECT VALUE position FROM {every} LIMIT 1"))[0]
        # The last one is found without a scan where it should be; the scan is for broken stores.
        near = (await self.checkpoint(shard)).position
        for start in (near, 0):
            found = await self._one(
                f"SELECT position FROM {_events(shard, start, _END)} ORDER BY position DESC LIMIT 1"
            )
            if found:
                return first, found[0]["position"], counted[0]["count"]
        return first, first, counted[0]["count"]

    async def row(self, projection: str, key: str) -> Row | None:
        """One row of a projection."""
        row_id = _row_id(projection, key)
        found = await self._one(f"SELECT {column.ROW} FROM ONLY $row_id", {"row_id": row_id})
        return column.read_row(found) if found else None

    async def rows(
        self, projection: str, *, tags: dict[str, list[str]], before: int = 0, limit: int = 100
    ) -> list[Row]:
        """Rows in descending `order`; see `Store.rows`."""
        if any(not _NAME.fullmatch(name) for name in tags):
            raise ValueError(f"tags {list(tags)} are not all of the letters a-z and _")
        found: list[Row] = []
        # One value of each tag at a time: only then every index has its rows in order of rank.
        for values in product(*tags.values()):
            one = dict(zip(tags, values, strict=True))
            found += await self._rows(projection, one, before, limit)
        return sorted(found, key=lambda row: row.order, reverse=True)[:limit]

    async def _rows(
        self, projection: str, tags: dict[str, str], before: int, limit: int
    ) -> list[Row]:
        sql = f"SELECT {column.ROW} FROM row WHERE projection = $projection AND rank > $above"
        sql += "".join(f" AND tags.{name} = $tag_{name}" for name in tags)
        # The embedded engine walks an index in order of rank and stops at the limit; asked to
        # sort, it reads every row. A server may walk it in several threads and has to sort.
        order = " ORDER BY rank" if self._link.remote else ""
        values = {
            "projection": projection,
            "above": -before if before else -_END,
            "limit": limit,
            **{f"tag_{name}": value for name, value in tags.items()},
        }
        found = await self._one(f"{sql}{order} LIMIT $limit", values)
        return [column.read_row(row) for row in found]

    async def execute(self, sql: str) -> list[Any]:
        """Run SurrealQL as it stands, for tools that look into a store; results by statement.

        Raises:
            Unavailable: A statement was refused, or the database does not answer.
        """
        return await self._link.query(sql)

    async def _one(self, sql: str, values: dict[str, Any] | None = None) -> Any:
        return (await self._link.query(sql, values))[-1]

    async def _narrowed(self, query: EventQuery) -> tuple[int, int]:
        """Positions between which every event of the asked time stands."""
        low, high = query.first, (await self.checkpoint(query.shard)).position
        high = min(high, query.last) if query.last else high
        slack = timedelta(seconds=_CLOCKS_S)
        first = low if query.since is None else await self._after(query, query.since - slack)
        last = high if query.until is None else await self._after(query, query.until + slack)
        return max(low, first), min(high, last)

    async def _after(self, query: EventQuery, instant: datetime) -> int:
        """First position stored at or after an instant, by bisection."""
        low, high = query.first, (await self.checkpoint(query.shard)).position
        while low < high:
            middle = (low + high) // 2
            at = await self._one(
                f"SELECT VALUE stored_us FROM {_events(query.shard, middle, _END)} LIMIT 1"
            )
            if at and at[0] < column.micros(instant):
                low = middle + 1
            else:
                high = middle
        return low


class _Refused(Unavailable):
    """A statement of a query failed; the text is the database's."""


class _Link:
    """One connection: every statement's status is checked, a lost server is connected again."""

    def __init__(self, url: str, tenant: str, credentials: tuple[str, str] | None = None) -> None:
        self.remote = url.startswith(_REMOTE)
        self._url, self._tenant, self._credentials = url, tenant, credentials
        self._db: AsyncWsSurrealConnection | None = None
        self._opening = anyio.Lock()

    async def query(self, sql: str, values: dict[str, Any] | None = None) -> list[Any]:
        """Results of all statements.

        Raises:
            _Refused: A statement failed.
            Unavailable: No answer; the statements may have run.
        """
        # Lost futures of a dead socket are cancelled by the SDK: that is no cancellation of ours.
        try:
            with anyio.fail_after(_ANSWER_S if self.remote else None):
                async with self._opening:
                    db = self._db or await self._open()
                reply = await db.query_raw(sql, values or {})
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._db = None
            raise Unavailable(f"store at {self._url}: the connection was lost") from None
        except _LOST as error:
            if self.remote:
                self._db = None
            raise Unavailable(f"store at {self._url}: {error!r}") from error
        return _results(reply)

    async def close(self) -> None:
        """Let go of the database; the embedded one closes when nothing refers to it any more."""
        db, self._db = self._db, None
        if db is not None:
            await db.close()
        del db
        if not self.remote:
            gc.collect()

    async def _open(self) -> AsyncWsSurrealConnection:
        kind = AsyncWsSurrealConnection if self.remote else AsyncEmbeddedSurrealConnection
        db = kind(self._url)
        await db.connect()
        if self._credentials:
            user, password = self._credentials
            await db.signin({"username": user, "password": password})
        for sql in (
            "DEFINE NAMESPACE IF NOT EXISTS mesh",
            f"USE NS mesh; DEFINE DATABASE IF NOT EXISTS `{self._tenant}`",
        ):
            _results(await db.query_raw(sql, {}))
        await db.use("mesh", self._tenant)
        self._db = db
        return db


def _results(reply: dict[str, Any]) -> list[Any]:
    if reply.get("error"):
        raise _Refused(str(reply["error"]))
    faults = [str(s["result"]) for s in reply["result"] if s["status"] != "OK"]
    if faults:
        # Of a failed transaction every statement fails; the one that says why is not the first.
        why = [fault for fault in faults if "not executed" not in fault]
        raise _Refused((why or faults)[0])
    return [statement["result"] for statement in reply["result"]]


def _commit_error(text: str, expected: Checkpoint) -> MeshError:
    if found := re.search(r"mesh:conflict:(\d+)", text):
        actual = int(found[1])
        return CheckpointConflict(expected.shard, expected=expected.position, actual=actual)
    if found := re.search(r"event:\[['\"]?\w+['\"]?, ?(\d+)\].*already exists", text):
        return HistoryCorrupt(
            f"shard `{expected.shard}`: position {found[1]} is stored already, above the"
            " checkpoint; `mesh store verify` shows what stands there"
        )
    return Unavailable(f"store: {text}")


def _events(shard: str, first: int, last: int) -> str:
    """Source of a SELECT: a range of record ids, which the engine walks in order."""
    # No parameter can stand for a range, so what goes into the text is checked.
    if not _SHARD.fullmatch(shard):
        raise ValueError(f"shard `{shard}` is not `s` and a number")
    return f"event:['{shard}', {first:d}]..=['{shard}', {last:d}]"


def _event_id(event: StoredEvent) -> RecordID:
    return RecordID("event", [event.shard, event.record.position])


def _row_id(projection: str, key: str) -> RecordID:
    return RecordID("row", [projection, key])


def _cursor(shard: str) -> RecordID:
    return RecordID("checkpoint", shard)
