-- Executions: one narrow, hot row each. xid grows with age, so executions of one
-- time lie together on disk; rec holds the encoded record.
create table executions (
  xid      integer primary key,
  part     integer not null,
  uuid     blob    not null,
  bucket   integer not null,
  state    integer not null,
  offered  integer not null,
  prio_key integer not null,
  id_rank  integer not null,
  due_at   integer,
  holder   text,
  rec      blob    not null
);
create unique index executions_id on executions (part, uuid);
create index executions_eligible on executions (bucket, prio_key, id_rank, uuid) where offered = 1;
-- Waiting but offered to nobody: granted, paused, or in a disabled lane.
create index executions_withheld on executions (bucket, prio_key) where offered = 0 and state = 0;
create index executions_due on executions (due_at) where due_at is not null;
create index executions_holder on executions (holder, part, uuid) where holder is not null;

-- What is written once and read rarely, apart from the hot row.
create table inputs (
  xid      integer primary key,
  policy   blob,
  encoding text not null,
  data     blob not null
);
create table results (
  xid      integer primary key,
  encoding text not null,
  data     blob not null
);
create table execution_tags (
  xid   integer not null,
  key   text    not null,
  value text    not null,
  primary key (xid, key)
) without rowid;

-- Attempts that a newer attempt has taken the place of; the newest is in rec.
create table attempts (
  xid integer not null,
  idx integer not null,
  rec blob    not null,
  primary key (xid, idx)
) without rowid;

create table buckets (
  bucket           integer primary key,
  lane             text not null,
  namespace        text not null,
  required         text not null,
  uncovered_since  integer not null default 0,
  last_mismatch_at integer not null default 0
);
create unique index buckets_key on buckets (lane, namespace, required);

create table idempotency (
  namespace  text    not null,
  key        text    not null,
  part       integer not null,
  uuid       blob    not null,
  expires_at integer not null,
  primary key (namespace, key)
) without rowid;
create index idempotency_expiry on idempotency (expires_at);

-- Feed events, in commit order per feed; seq is dense per (part, feed). prev is
-- the pos of the previous lease event of the same execution.
create table events (
  feed integer not null,
  pos  integer not null,
  part integer not null,
  seq  integer not null,
  at   integer not null,
  prev integer not null,
  rec  blob    not null,
  primary key (feed, pos)
) without rowid;

-- The sequence numbers of each feed as of event pos upto, and what was trimmed.
create table feed_heads (
  feed    integer not null,
  part    integer not null,
  seq     integer not null,
  trimmed integer not null,
  primary key (feed, part)
) without rowid;
create table feed_marks (
  feed integer primary key,
  upto integer not null
);

create table lanes (
  lane text primary key,
  rec  text not null
) without rowid;
-- Lanes that some worker has named at least once.
create table named_lanes (
  lane text primary key
) without rowid;
create table lane_counts (
  lane  text    not null,
  state integer not null,
  n     integer not null,
  primary key (lane, state)
) without rowid;

create table workers (
  namespace text not null,
  instance  text not null,
  rec       text not null,
  primary key (namespace, instance)
) without rowid;
create table worker_events (
  id   integer primary key,
  at   integer not null,
  namespace text not null,
  instance  text not null,
  kind      text not null,
  reason    text not null
);

create table config (
  name  text primary key,
  value text not null
) without rowid;
