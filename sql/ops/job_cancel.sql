set local role holdfast_system;

create or replace function ops.job_cancel(
  run uuid, actor text, reason text, force boolean default false, dry_run boolean default false)
returns table (run_id uuid, tenant text, kind text, verdict text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_before app.job_runs;
  v_after  app.job_runs;
begin
  perform app_private.run_actor_check(actor, reason);

  v_before := app_private.run_lock(app_private.run_find(run), run);
  if dry_run is not true or v_before.finished_at is not null then
    v_after := app_private.run_cancel(v_before, actor, reason, coalesce(force, false));
  end if;
  if dry_run is not true and v_after is distinct from v_before then
    insert into ops.audit_log (action, subject, reason, before, after)
    select 'job_cancel', t.name, job_cancel.reason, pg_catalog.to_jsonb(v_before),
           pg_catalog.jsonb_build_object('state', v_after.state, 'force', force, 'actor', actor)
    from app.tenants as t where t.tenant_id = v_before.tenant_id;
  end if;

  return query
  select v_before.id, t.name, v_before.kind, case
    when v_before.finished_at is not null then 'was cancelled already'
    when v_before.state <> 'RUNNING' or force is true
      then case when dry_run is true then 'would end at once' else 'has ended' end
    when dry_run is true then 'its worker would be told, and it would end within 20 s'
    else 'its worker is told, and it ends within 20 s' end
  from app.tenants as t where t.tenant_id = v_before.tenant_id;
end
$$;

comment on function ops.job_cancel is
  'Ends a run among all tenants: at once while it waits, within 20 s while it runs, or at once with force, which drops what it '
  'has done; audited. dry_run shows it without doing it. Raises JB101, JB206 when it has ended otherwise, OP101, OP102.';

grant execute on function ops.job_cancel to holdfast_ops;

set local role holdfast_owner;
