-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.llm_ask') is null then
    create type app_private.llm_ask as (
      n                  integer,
      id                 uuid,
      idempotency_key    text,
      fingerprint        text,
      provider           text,
      model              text,
      service_tier       text,
      input_tokens_bound bigint,
      max_output_tokens  bigint,
      min_output_tokens  bigint,
      images             integer,
      tool_calls         integer,
      api_key            text,
      user_id            text,
      tags               text[],
      run_id             uuid,
      attempt            integer,
      ttl                interval,
      price_ids          uuid[],
      fixed_nanousd      numeric,
      output_rate        numeric,
      needed_nanousd     numeric,
      periods            integer[],
      refusal            text,
      detail             jsonb
    );
  end if;
end
$$;

comment on type app_private.llm_ask is
  'A request for a hold, as app.llm_reserve_many works on it: what was asked, its price (fixed_nanousd without any output, '
  'output_rate in US dollars per million), the places of its budgets in the list of periods, and why it is refused.';
