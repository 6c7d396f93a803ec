create or replace function app_private.llm_asks_run(tenant_id uuid, asks app_private.llm_ask[])
returns app_private.llm_ask[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_wanted uuid[] := array[]::uuid[];
  v_found  uuid[];
  v_asks   app_private.llm_ask[] := array[]::app_private.llm_ask[];
  v_ask    app_private.llm_ask;
begin
  foreach v_ask in array asks loop
    if v_ask.run_id is not null and v_ask.refusal is null and v_ask.run_id <> all (v_wanted) then
      v_wanted := v_wanted || v_ask.run_id;
    end if;
  end loop;
  if v_wanted = '{}' then return asks; end if;
  v_found := array(
    select r.id from app.job_runs as r where r.tenant_id = llm_asks_run.tenant_id and r.id = any (v_wanted));
  if pg_catalog.cardinality(v_found) = pg_catalog.cardinality(v_wanted) then return asks; end if;
  foreach v_ask in array asks loop
    if v_ask.refusal is null and v_ask.run_id is not null and v_ask.run_id <> all (v_found) then
      v_ask.refusal := 'job_run_not_found';
    end if;
    v_asks := v_asks || v_ask;
  end loop;
  return v_asks;
end
$$;

comment on function app_private.llm_asks_run is 'Refuses the requests that name a run which is no run of the tenant.';
