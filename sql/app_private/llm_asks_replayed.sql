create or replace function app_private.llm_asks_replayed(tenant_id uuid, asks app_private.llm_ask[])
returns app_private.llm_ask[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_asks  app_private.llm_ask[] := array[]::app_private.llm_ask[];
  v_ask   app_private.llm_ask;
  v_known jsonb := (
    select pg_catalog.jsonb_object_agg(
             k.idempotency_key, pg_catalog.jsonb_build_array(k.reservation_id, k.fingerprint))
    from app.llm_reservation_keys as k
    where k.tenant_id = llm_asks_replayed.tenant_id
      and k.idempotency_key = any (array(select a.idempotency_key from unnest(asks) as a)));
  v_first jsonb;
begin
  if v_known is null then return asks; end if;
  foreach v_ask in array asks loop
    v_first := v_known -> v_ask.idempotency_key;
    if v_ask.refusal is null and v_first is not null and (v_first ->> 0)::uuid <> v_ask.id then
      v_ask.id := (v_first ->> 0)::uuid;
      v_ask.refusal := case when v_first ->> 1 = v_ask.fingerprint then 'replayed'
                            else 'idempotency_conflict' end;
    end if;
    v_asks := v_asks || v_ask;
  end loop;
  return v_asks;
end
$$;

comment on function app_private.llm_asks_replayed is
  'Marks the requests whose key has made a hold before: replayed, with the id of that hold, or idempotency_conflict where '
  'it was made for another request.';
