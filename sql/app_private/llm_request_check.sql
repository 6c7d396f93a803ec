create or replace function app_private.llm_request_check(
  idempotency_key text, input_tokens_bound bigint, max_output_tokens bigint, attempt integer, ttl interval)
returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  if coalesce(pg_catalog.length(idempotency_key), 0) not between 1 and 255
    or coalesce(input_tokens_bound, -1) not between 0 and 100000000
    or coalesce(max_output_tokens, -1) not between 0 and 100000000
    or coalesce(attempt, 0) not between 1 and 1000000
    or coalesce(ttl, interval '-1 second') not between interval '0' and interval '1 hour'
  then
    raise exception using
      errcode = 'LB105',
      message = 'reservation_invalid',
      detail  = pg_catalog.jsonb_build_object('input_tokens_bound', input_tokens_bound,
                  'max_output_tokens', max_output_tokens, 'ttl', ttl),
      hint    =
        'The key has 1 to 255 characters, tokens are 0 to 100,000,000, an attempt counts from 1, the ttl is at most an hour.';
  end if;
end
$$;

comment on function app_private.llm_request_check is 'Raises LB105 unless the numbers of a request can be held.';
