create or replace function app_private.llm_units_fault(used app_private.llm_units) returns text
language sql
immutable
parallel safe
return case
  when not coalesce((used).input between 0 and 100000000 and (used).output between 0 and 100000000, false)
    then 'input_tokens and output_tokens are 0 to 100,000,000.'
  when not coalesce(least((used).cached_input, (used).cache_write_5m, (used).cache_write_1h) >= 0
    and (used).cached_input + (used).cache_write_5m + (used).cache_write_1h <= (used).input, false)
    then 'Tokens that were read from or written to a cache are part of the input tokens.'
  when not coalesce((used).reasoning between 0 and (used).output, false)
    then 'reasoning_tokens are part of the output tokens.'
  when not coalesce((used).image between 0 and 10000 and (used).tool_call between 0 and 10000, false)
    then 'images and tool_calls are 0 to 10,000.'
end;

comment on function app_private.llm_units_fault is 'What cannot be true of what a call used, in words; null when all can.';
