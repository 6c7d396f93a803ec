create or replace function app.analysis_get(tenant_id uuid, ticket text, analysis_id uuid)
returns table (
  id uuid, run_id uuid, status text, narrated_by text, fallback_reason text, provider text, model text,
  summary text, findings integer, llm_reserved_nanousd bigint, llm_settled_nanousd bigint,
  llm_reserved_usd numeric, llm_settled_usd numeric, error_code text,
  created_at timestamptz, started_at timestamptz, finished_at timestamptz, without text[])
language plpgsql
security definer  -- the service role may not read runs
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);

  return query
  select r.id, r.id, app_private.analysis_status(r.state), a.narrated_by, a.fallback_reason, a.provider,
         a.model, a.summary,
         a.finding_count, m.reserved, m.settled, app_private.usd(m.reserved), app_private.usd(m.settled),
         coalesce(r.error_code,
           case when a.fallback_reason in ('budget_exceeded', 'no_price') then a.fallback_reason end),
         r.created_at, r.started_at, r.finished_at, coalesce(a.without, '{}')
  from app.job_runs as r
  left join app.analyses as a on a.tenant_id = r.tenant_id and a.id = r.id
  cross join lateral (
    select coalesce(sum(x.estimated_cost_nanousd), 0)::bigint as reserved,
           coalesce(sum(x.cost_nanousd), 0)::bigint as settled
    from app.llm_reservations as x
    where x.tenant_id = r.tenant_id and x.run_id = r.id) as m
  where r.tenant_id = analysis_get.tenant_id and r.id = analysis_id and r.kind = 'analysis';

  if not found then
    raise exception using
      errcode = 'NA101',
      message = 'analysis_not_found',
      hint    = 'Use the id that the request for an analysis answered.';
  end if;
end
$$;

comment on function app.analysis_get is
  'An analysis: its state, how it was worded, and what its calls reserved and cost. error_code is budget_exceeded or '
  'no_price where it was worded by the template for that reason; without names the kinds of its slot that had failed for '
  'good before it. Raises NA101, alike for an absent and a foreign id.';

grant execute on function app.analysis_get to holdfast_service, holdfast_worker;
