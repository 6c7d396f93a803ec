set local role holdfast_system;

create or replace function ops.retention_set(
  table_name text, keep interval, reason text, dry_run boolean default false)
returns table (before_keep interval, after_keep interval, would_drop bigint)
language plpgsql
security definer  -- rows of all tenants go by it
set search_path = ''
set row_security = on
as $$
declare
  v_before interval;
begin
  perform app_private.reason_check(reason);
  select r.keep into v_before
  from app.retentions as r
  where r.table_name = retention_set.table_name
  for no key update;
  if not found or not coalesce(keep >= interval '31 days', false) then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('table_name', table_name, 'keep', keep),
      hint    = 'ops.retentions lists the tables of which rows may go; each is kept for 31 days at least.';
  end if;

  if not dry_run then
    update app.retentions as r set keep = retention_set.keep where r.table_name = retention_set.table_name;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('retention_set', table_name, reason, pg_catalog.jsonb_build_object('keep', v_before),
            pg_catalog.jsonb_build_object('keep', keep));
  end if;

  return query
  select v_before, keep, count(*)
  from app_private.partition_months as m
  where m.table_name = retention_set.table_name and m.month_end <= pg_catalog.now() - keep;
end
$$;

comment on function ops.retention_set is
  'Sets how long the rows of a table are kept, those of all tenants; audited. Answers how many months app.maintain would drop '
  'now. dry_run shows that without the change. Raises OP101, OP102.';

grant execute on function ops.retention_set to holdfast_ops;

set local role holdfast_owner;
