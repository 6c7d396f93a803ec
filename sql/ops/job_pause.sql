set local role holdfast_system;

create or replace function ops.job_pause(
  reason text, tenant text default null, kind text default null, cohort text default null,
  dry_run boolean default false)
returns table (what text, name text, since timestamptz, verdict text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_pause record;
begin
  perform app_private.reason_check(reason);
  select p.* into v_pause
  from app_private.job_pause_set(
    tenant, kind, cohort, paused => true, dry_run => coalesce(dry_run, false)) as p;

  if dry_run is not true and v_pause.before is null then
    insert into ops.audit_log (action, subject, reason, after)
    values ('job_pause', v_pause.name, job_pause.reason,
            pg_catalog.jsonb_build_object('what', v_pause.what, 'paused_at', v_pause.after));
  end if;

  return query select v_pause.what, v_pause.name, v_pause.after, case
    when v_pause.before is not null then 'was paused already'
    when dry_run is true then 'would be paused'
    else 'paused: what runs goes on, nothing else starts' end;
end
$$;

comment on function ops.job_pause is
  'Pauses a tenant, a kind or a cohort, among all tenants, at once: what runs goes on, what waits stays waiting; audited. dry_run '
  'shows it without doing it. Raises TN101, OP101, OP102.';

grant execute on function ops.job_pause to holdfast_ops;

set local role holdfast_owner;
