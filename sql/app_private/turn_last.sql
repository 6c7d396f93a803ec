create or replace function app_private.turn_last(tenant_id uuid) returns uuid
language sql
stable
set search_path = ''
as $$
  -- The first run of each turn; of the newest ones, for a turn may be counted as taken by the run of the one before it.
  select x.run_id
  from (
    select distinct on (j.slot) j.run_id
    from app.job_kinds as k
    cross join lateral (
      select s.slot, s.run_id
      from app.job_slots as s
      where s.tenant_id = turn_last.tenant_id and s.kind = k.kind
      order by s.slot desc
      limit 3) as j
    where k.slot_order is not null
    order by j.slot, j.run_id) as x
  order by x.run_id desc
  limit 1
$$;

comment on function app_private.turn_last is
  'The run with which the last turn of a tenant began: when that was, its id says. Null before the first.';

grant execute on function app_private.turn_last to holdfast_system;
