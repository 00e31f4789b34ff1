"""The store of a replica: files for one host, or Redis. Both have the same methods.

Reads and writes raise `StoreUnavailable` when they fail, and `RecordRefused` when the record itself
is the reason. `read_all` is cheap enough for several calls a second: from memory while the store
can tell that nothing was written; an unchanged record is the same object each time. `follow` is a
help, not a promise: announcements may be missed.
"""

from __future__ import annotations

from serving_gateway.replication.file_store import FileStore
from serving_gateway.replication.redis_store import RedisStore

RoutingStore = FileStore | RedisStore
