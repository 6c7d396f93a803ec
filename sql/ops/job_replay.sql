set local role holdfast_system;

create or replace function ops.job_replay(
  filter jsonb, actor text, reason text, rate numeric default 10, dry_run boolean default true,
  force boolean default false)
returns table (run uuid, tenant text, kind text, verdict text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_now  constant timestamptz := pg_catalog.clock_timestamp();
  v_dead app.job_runs[];
  v_go   app.job_runs[];
begin
  perform app_private.run_actor_check(actor, reason);
  if coalesce(rate, 0) not between 0.001 and 10000 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', 'rate'),
      hint    = 'rate is how many runs are due again each second, 0.001 to 10000.';
  end if;

  v_dead := array(select d from app_private.runs_dead(filter) as d);
  -- Tenants take turns.
  v_go := array(
    select d from unnest(v_dead) as d
    where force or not app_private.run_superseded(d)
    order by row_number() over (partition by d.tenant_id order by d.id), d.tenant_id);

  if not coalesce(dry_run, true) then
    perform app_private.run_replay(g.run, actor, reason, v_now + (g.n - 1) / rate * interval '1 second')
    from (select u.n, v_go[u.n] as run from generate_subscripts(v_go, 1) as u (n)) as g;
    perform app_private.runs_admit(array_agg(p.tenant_id), array_agg(p.kind))
    from (select distinct g.tenant_id, g.kind from unnest(v_go) as g) as p having count(*) > 0;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('job_replay', job_replay.actor, job_replay.reason, filter, pg_catalog.jsonb_build_object(
      'replayed', pg_catalog.cardinality(v_go),
      'skipped', pg_catalog.cardinality(v_dead) - pg_catalog.cardinality(v_go),
      'rate', rate, 'force', force, 'runs', array(select g.id from unnest(v_go) as g)));
  end if;

  return query
  select d.id, t.name, d.kind, case
    when g.n is null then 'skipped: a newer turn of it has completed since'
    else pg_catalog.format(case when coalesce(dry_run, true) then 'would be due again in %s s'
      else 'due again in %s s' end, pg_catalog.round((g.n - 1) / rate, 1)) end
  from unnest(v_dead) as d
  join app.tenants as t on t.tenant_id = d.tenant_id
  left join generate_subscripts(v_go, 1) as g (n) on (v_go[g.n]).id = d.id
  order by g.n nulls last, d.tenant_id, d.id;
end
$$;

comment on function ops.job_replay is
  'Makes dead letters pending again, as the same runs with all their retries, so many each second, tenants in turn, among all '
  'tenants; audited. filter is a JSON object with any of run, tenant, kind, error_code, since, until, max_runs (1000); one that a '
  'newer turn has made needless is skipped, unless forced. Only shows it unless dry_run => false. Raises JB101, JB205, TN101, OP101, OP102.';

grant execute on function ops.job_replay to holdfast_ops;

set local role holdfast_owner;
