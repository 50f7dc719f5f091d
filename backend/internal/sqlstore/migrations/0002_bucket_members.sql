-- How many executions a bucket has, in any state, and since when it has had
-- none: a descriptor that nothing refers to any more goes after a day.
alter table buckets add column members integer not null default 0;
alter table buckets add column empty_since integer not null default 0;
update buckets set members = held.n
  from (select bucket as held_bucket, count(*) as n from executions group by bucket) as held
  where buckets.bucket = held.held_bucket;
