create or replace function app_private.llm_cost(used app_private.llm_units, rates app_private.llm_rates)
returns numeric
language plpgsql  -- an expression that names an argument twice is not inlined
immutable
parallel safe
set search_path = ''
as $$
begin
  return pg_catalog.ceil(1000 * (
    ((used).input - (used).cached_input - (used).cache_write_5m - (used).cache_write_1h) * (rates).input
    + (used).cached_input * (rates).cached_input
    + (used).cache_write_5m * (rates).cache_write_5m
    + (used).cache_write_1h * (rates).cache_write_1h
    + ((used).output - (used).reasoning) * (rates).output
    + (used).reasoning * (rates).reasoning
    + (used).request * (rates).request
    + (used).image * (rates).image
    + (used).tool_call * (rates).tool_call));
end
$$;

comment on function app_private.llm_cost is
  'Nano-USD of a call, rounded up once: units x US dollars per million x 10^9 / 10^6.';
