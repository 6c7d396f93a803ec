create or replace function app_private.whole(count numeric) returns bigint
language sql
immutable
parallel safe
return case when count < 0 then -1 when count is not null
  then pg_catalog.ceil(least(count, 1000000000)) end::bigint;

comment on function app_private.whole is
  'A count that came as a number of any size: a fraction is rounded up, and what is out of every range stays so.';
