set local role holdfast_system;

create or replace function ops.job_resume(
  reason text, tenant text default null, kind text default null, cohort text default null,
  dry_run boolean default false)
returns table (what text, name text, since timestamptz, verdict text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_pause    record;
  v_admitted integer;
begin
  perform app_private.reason_check(reason);
  select p.* into v_pause
  from app_private.job_pause_set(
    tenant, kind, cohort, paused => false, dry_run => coalesce(dry_run, false)) as p;

  if dry_run is not true and v_pause.before is not null then
    -- A tenant's own come first; what is beyond the 10,000 is admitted within seconds.
    v_admitted := (
      select a.admitted
      from app.job_admit(
        after_tenant_id => case when tenant is not null then app.tenant_find(tenant) end,
        after_kind => case when tenant is not null then '' end) as a);
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('job_resume', v_pause.name, job_resume.reason,
            pg_catalog.jsonb_build_object('what', v_pause.what, 'paused_at', v_pause.before),
            pg_catalog.jsonb_build_object('admitted', v_admitted));
  end if;

  return query select v_pause.what, v_pause.name, v_pause.before, case
    when v_pause.before is null then 'was not paused'
    when dry_run is true then 'would go on'
    else pg_catalog.format('goes on: %s waiting runs are in the queue', v_admitted) end;
end
$$;

comment on function ops.job_resume is
  'Ends the pause of a tenant, a kind or a cohort, among all tenants, and admits what waits at once; audited. since is when the pause '
  'began. dry_run shows it without doing it. Raises TN101, OP101, OP102.';

grant execute on function ops.job_resume to holdfast_ops;

set local role holdfast_owner;
