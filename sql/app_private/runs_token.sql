create or replace function app_private.runs_token(tenant_ids uuid[], run_ids uuid[]) returns integer
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
begin
  return app_private.tokens_add(array(
    select app_private.token_of(r, c.weight)
    from unnest(tenant_ids, run_ids) as w (tenant_id, run_id)
    join app.job_runs as r on r.tenant_id = w.tenant_id and r.id = w.run_id
    join app.tenants as t on t.tenant_id = r.tenant_id
    join app.tiers as c on c.tier = t.tier));
end
$$;

comment on function app_private.runs_token is
  'Queues the tokens of these runs, as they stand, for the moments at which they are due; answers how many.';

grant execute on function app_private.runs_token to holdfast_system;
