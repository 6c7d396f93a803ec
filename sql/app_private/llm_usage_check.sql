create or replace function app_private.llm_usage_check(
  input_tokens bigint, cached_input_tokens bigint, output_tokens bigint)
returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  if coalesce(input_tokens, -1) not between 0 and 100000000
    or coalesce(output_tokens, -1) not between 0 and 100000000
    or coalesce(cached_input_tokens, -1) not between 0 and input_tokens
  then
    raise exception using
      errcode = 'LB105',
      message = 'reservation_invalid',
      detail  = pg_catalog.jsonb_build_object('input_tokens', input_tokens,
                  'cached_input_tokens', cached_input_tokens, 'output_tokens', output_tokens),
      hint    = 'Tokens are 0 to 100,000,000, and cached input tokens are part of the input tokens.';
  end if;
end
$$;

comment on function app_private.llm_usage_check is 'Raises LB105 unless the tokens of a call can be settled.';
