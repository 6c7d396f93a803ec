create or replace function app_private.llm_quote(tenant_id uuid, ask jsonb) returns app_private.llm_ask
language plpgsql
set search_path = ''
as $$
declare
  v_at      constant timestamptz := pg_catalog.clock_timestamp();
  v_asks    app_private.llm_ask[];
  v_periods app_private.llm_period[];
begin
  v_asks := app_private.llm_asks_read(pg_catalog.jsonb_build_array(
    pg_catalog.jsonb_build_object('idempotency_key', 'quote') || ask));
  v_asks := app_private.llm_asks_price(tenant_id, v_asks, v_at);
  v_periods := app_private.llm_asks_periods(tenant_id, v_asks, v_at);
  v_asks := app_private.llm_asks_fit(
    app_private.llm_asks_place(v_asks, v_periods), v_periods, all_come_back => false);
  return v_asks[1];
end
$$;

comment on function app_private.llm_quote is
  'What a request for a hold would be answered now. Holds nothing, locks nothing: the call itself still reserves.';
