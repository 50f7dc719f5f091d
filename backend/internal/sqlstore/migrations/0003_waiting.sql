-- The current or last suspension of an execution. open_at is null once it is
-- over; of an open one it is the timeout, or a number above all instants when
-- there is none: the order in which suspended executions are listed.
create table suspensions (
  xid     integer primary key,
  part    integer not null,
  uuid    blob    not null,
  bucket  integer not null,
  open_at integer,
  rec     blob    not null
);
create index suspensions_open on suspensions (part, open_at, uuid) where open_at is not null;

-- The satisfiers of a suspension that no longer fit into its record, in blocks: the
-- record is written at each signal and must stay small.
create table satisfiers (
  xid integer not null,
  n   integer not null,
  rec blob    not null,
  primary key (xid, n)
) without rowid;

-- A waitpoint's id is never used again on its partition. open is 1 until the
-- waitpoint is closed or expired.
create table waitpoints (
  part integer not null,
  uuid blob    not null,
  xid  integer not null,
  open integer not null,
  rec  blob    not null,
  primary key (part, uuid)
) without rowid;
create index waitpoints_of on waitpoints (xid, open, uuid);

-- Signals in the order of their acceptance, narrow: payloads lie apart, so that
-- listings do not read them. buffered is 1 while a signal waits on a pending
-- waitpoint.
create table signals (
  xid       integer not null,
  seq       integer not null,
  uuid      blob    not null,
  waitpoint blob    not null,
  buffered  integer not null,
  rec       blob    not null,
  primary key (xid, seq)
) without rowid;
create index signals_id on signals (xid, uuid);
create index signals_buffered on signals (xid, seq) where buffered = 1;
create table signal_payloads (
  xid  integer not null,
  seq  integer not null,
  data blob    not null,
  primary key (xid, seq)
);

-- Which signal an idempotency key stands for, per waitpoint.
create table signal_dedup (
  xid        integer not null,
  waitpoint  blob    not null,
  key        text    not null,
  seq        integer not null,
  expires_at integer not null,
  primary key (xid, waitpoint, key)
) without rowid;
create index signal_dedup_expiry on signal_dedup (expires_at);

-- The answers to suspends with an idempotency key, tokens included.
create table suspend_replays (
  xid        integer not null,
  lease      text    not null,
  key        text    not null,
  rec        blob    not null,
  expires_at integer not null,
  primary key (xid, lease, key)
) without rowid;
create index suspend_replays_expiry on suspend_replays (expires_at);

-- The key ring of the waitpoint tokens; config names the current key. expires_at
-- is the end of a former key's grace.
create table secrets (
  kid        text primary key,
  secret     text not null,
  expires_at integer
) without rowid;
