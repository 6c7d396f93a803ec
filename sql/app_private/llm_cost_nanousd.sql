create or replace function app_private.llm_cost_nanousd(
  input_tokens bigint, cached_input_tokens bigint, output_tokens bigint,
  input_rate numeric, cached_rate numeric, output_rate numeric) returns numeric
language sql
immutable
parallel safe
return ceil(1000 * (
  (input_tokens - cached_input_tokens) * input_rate
  + cached_input_tokens * coalesce(cached_rate, input_rate)
  + output_tokens * output_rate));

comment on function app_private.llm_cost_nanousd is
  'Nano-USD of a call, rounded up once: tokens x US dollars per million x 10^9 / 10^6. Without a price of its own, '
  'cached input costs what input does.';
