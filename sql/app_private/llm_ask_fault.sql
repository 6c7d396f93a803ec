create or replace function app_private.llm_ask_fault(ask app_private.llm_ask) returns text
language sql
stable  -- as what it calls: else it would not be inlined
parallel safe
return case
  when coalesce(pg_catalog.length((ask).idempotency_key), 0) not between 1 and 255
    then 'idempotency_key has 1 to 255 characters.'
  when pg_catalog.length((ask).provider) > 200 or pg_catalog.length((ask).model) > 200
    then 'provider and model have at most 200 characters.'
  when coalesce((ask).service_tier not in ('standard', 'priority', 'flex', 'batch'), true)
    then 'service_tier is standard, priority, flex or batch.'
  when coalesce((ask).input_tokens_bound, -1) not between 0 and 100000000
    then 'input_tokens_bound is 0 to 100,000,000.'
  when coalesce((ask).max_output_tokens, -1) not between 0 and 100000000
    then 'max_output_tokens is 0 to 100,000,000.'
  when (ask).min_output_tokens not between 1 and (ask).max_output_tokens
    then
      'min_output_tokens is 1 to max_output_tokens, or not there: then the call is refused where it does not fit.'
  when coalesce((ask).images, -1) not between 0 and 10000
    or coalesce((ask).tool_calls, -1) not between 0 and 10000
    then 'images and tool_calls are 0 to 10,000.'
  when pg_catalog.length((ask).api_key) not between 1 and 200
    or pg_catalog.length((ask).user_id) not between 1 and 200
    then 'api_key and user_id have 1 to 200 characters.'
  when pg_catalog.cardinality((ask).tags) > 20 or pg_catalog.array_position((ask).tags, null) is not null
    or pg_catalog.length(pg_catalog.array_to_string((ask).tags, '')) > 2000
    then 'tags are at most 20, of 2000 characters together.'
  when coalesce((ask).attempt, 0) not between 1 and 1000000
    then 'attempt counts from 1.'
  when coalesce((ask).ttl, interval '-1 second') not between interval '0' and interval '1 hour'
    then 'ttl is at most an hour.'
end;

comment on function app_private.llm_ask_fault is 'What is wrong with a request for a hold, in words; null when nothing is.';
