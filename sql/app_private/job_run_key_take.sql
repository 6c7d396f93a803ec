create or replace function app_private.job_run_key_take(
  tenant_id uuid, idempotency_key text, run_id uuid, fingerprint text) returns uuid
language plpgsql
set search_path = ''
as $$
declare
  v_key app.job_run_keys;
begin
  if idempotency_key is null then
    return null;
  end if;
  if pg_catalog.length(idempotency_key) not between 1 and 255 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', 'idempotency_key'),
      hint    = 'An idempotency key has 1 to 255 characters.';
  end if;

  insert into app.job_run_keys as k (tenant_id, idempotency_key, fingerprint, run_id)
  values (job_run_key_take.tenant_id, job_run_key_take.idempotency_key,
          pg_catalog.md5(job_run_key_take.fingerprint), job_run_key_take.run_id)
  on conflict on constraint job_run_keys_pkey do nothing;
  if found then
    return null;
  end if;

  select k.* into v_key
  from app.job_run_keys as k
  where k.tenant_id = job_run_key_take.tenant_id and k.idempotency_key = job_run_key_take.idempotency_key;
  if v_key.fingerprint <> pg_catalog.md5(fingerprint) then
    raise exception using
      errcode = 'LB103',
      message = 'idempotency_conflict',
      hint    = 'The key was used for another request. Use a new key for a new request.';
  end if;
  return v_key.run_id;
end
$$;

comment on function app_private.job_run_key_take is
  'Takes an idempotency key for a run: null when it is new (or none was given), the earlier run when it is not. Raises '
  'LB103 when it was taken for another request, OP102.';
