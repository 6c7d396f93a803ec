set local role holdfast_system;

create or replace function ops.job_discard(
  filter jsonb, actor text, reason text, dry_run boolean default true)
returns table (run uuid, tenant text, kind text, verdict text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_dead app.job_runs[];
begin
  perform app_private.run_actor_check(actor, reason);

  v_dead := array(select d from app_private.runs_dead(filter) as d);
  if not coalesce(dry_run, true) then
    perform app_private.run_discard(d, job_discard.actor, job_discard.reason) from unnest(v_dead) as d;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('job_discard', job_discard.actor, job_discard.reason, filter, pg_catalog.jsonb_build_object(
      'discarded', pg_catalog.cardinality(v_dead), 'runs', array(select d.id from unnest(v_dead) as d)));
  end if;

  return query
  select d.id, t.name, d.kind, case
    when d.discarded_at is not null then 'was put aside already'
    when coalesce(dry_run, true) then 'would be put aside'
    else 'put aside' end
  from unnest(v_dead) as d
  join app.tenants as t on t.tenant_id = d.tenant_id
  order by d.tenant_id, d.id;
end
$$;

comment on function ops.job_discard is
  'Puts dead letters aside, among all tenants; audited. filter is that of ops.job_replay. They are kept like every run, and '
  'can be replayed by their id. Only shows it unless dry_run => false. Raises JB101, JB205, TN101, OP101, OP102.';

grant execute on function ops.job_discard to holdfast_ops;

set local role holdfast_owner;
