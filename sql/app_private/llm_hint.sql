create or replace function app_private.llm_hint(refusal text, detail jsonb) returns text
language sql
immutable
parallel safe
return case
  when refusal is null then null
  when refusal = 'no_price' then pg_catalog.format('In psql: select * from ops.llm_price_set(%L, %L, '
    'input_usd_per_million => …, output_usd_per_million => …, reason => ''…'');', detail ->> 'provider', detail ->> 'model')
  when refusal = 'idempotency_conflict'
    then 'The key was used with another model or other bounds. Use a new key for a new request.'
  when refusal = 'reservation_invalid' then detail ->> 'fault'
  when refusal = 'reservation_not_found'
    then 'Use the id that llm_reserve answered, for the tenant that reserved it.'
  when refusal = 'reservation_closed' then 'A reservation ends once. What it cost is in app.llm_usage.'
  when refusal = 'job_run_not_found' then 'Use the id of a run of this tenant; ops.jobs lists them.'
  when detail ->> 'reason' = 'no_budget' then
    'The tenant has no budget. In psql: select * from ops.set_limit(tenant => …, limit_usd => …, reason => …);'
  when detail ->> 'reason' = 'zero' then 'A limit of 0 refuses every call. Raise it with ops.set_limit.'
  when detail ->> 'reason' = 'too_large'
    then 'The call alone is more than the limit. Ask for less, or raise the limit with ops.set_limit.'
  when detail ->> 'reason' = 'in_flight'
    then 'Calls that are under way hold the rest. Try again when they have ended.'
  else 'Wait for the next period, ask for less, or raise the limit with ops.set_limit.'
end;

comment on function app_private.llm_hint is 'What a person does about a request that was refused.';
