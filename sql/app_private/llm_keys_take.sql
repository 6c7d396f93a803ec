create or replace function app_private.llm_keys_take(tenant_id uuid, asks app_private.llm_ask[])
returns app_private.llm_ask[]
language plpgsql
set search_path = ''
as $$
declare
  v_wanted integer;
  v_taken  integer;
begin
  -- In the order of the keys: two batches with the same ones wait for each other, and never in a ring.
  insert into app.llm_reservation_keys (tenant_id, idempotency_key, fingerprint, reservation_id)
  select llm_keys_take.tenant_id, a.idempotency_key, a.fingerprint, a.id
  from unnest(asks) as a
  where a.refusal is null
  order by a.idempotency_key, a.n
  on conflict on constraint llm_reservation_keys_pkey do nothing;
  get diagnostics v_taken = row_count;
  select count(*) into v_wanted from unnest(asks) as a where a.refusal is null;

  -- Somebody else was quicker, or the key comes twice here.
  return case when v_taken = v_wanted then asks
              else app_private.llm_asks_replayed(tenant_id, asks) end;
end
$$;

comment on function app_private.llm_keys_take is
  'Takes the keys of these requests, before any counter is locked. A key that is taken marks its request as a replay.';
