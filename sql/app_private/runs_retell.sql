create or replace function app_private.runs_retell(
  tenant_ids uuid[], run_ids uuid[], judged app_private.job_verdict[], served text[], at timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
begin
  return app_private.tokens_add(array(
    select row(r.tenant_id, r.id, r.attempt, at + interval '1 second', 0)::app_private.token
    from (
      select distinct u.tenant_id, u.run_id from unnest(tenant_ids, run_ids) as u (tenant_id, run_id)) as w
    join app.job_runs as r on r.tenant_id = w.tenant_id and r.id = w.run_id
    where r.state in ('PENDING', 'FAILED')
      and r.token_at is not null
      and r.available_at <= at
      and r.kind <> all (served) is not true
      and not exists (select from unnest(judged) as j where j.run_id = r.id)));
end
$$;

comment on function app_private.runs_retell is
  'Queues a token again, for a second later, for each run that was to be claimed and was passed over because somebody held '
  'its row: the token that was just taken is the only one it has. '
  'served are the kinds of the worker (null: all); another worker tells its own. Answers how many.';

grant execute on function app_private.runs_retell to holdfast_system;
