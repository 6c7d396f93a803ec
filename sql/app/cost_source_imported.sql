create or replace function app.cost_source_imported(
  tenant_id uuid, ticket text, source text, digest text, import_id uuid) returns boolean
language plpgsql
security definer  -- the shell may not write sources
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  if coalesce(digest, '') !~ '^[0-9a-f]{64}$' then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', 'digest'),
      hint    = 'A digest is the SHA-256 of the file in 64 lowercase hex digits.';
  end if;
  if not exists (
    select from app.cost_imports as i
    where i.tenant_id = cost_source_imported.tenant_id
      and i.id = cost_source_imported.import_id
      and i.source = cost_source_imported.source
      and i.status in ('PUBLISHED', 'SUPERSEDED'))
  then
    raise exception using
      errcode = 'IM101',
      message = 'import_not_found',
      hint    = 'It is no import of this source, or was not published; ops.imports lists them.';
  end if;

  update app.cost_sources as s
  set last_digest = cost_source_imported.digest,
      last_import_id = cost_source_imported.import_id,
      last_import_at = now()
  where s.tenant_id = cost_source_imported.tenant_id and s.source = cost_source_imported.source;

  return found;
end
$$;

comment on function app.cost_source_imported is
  'Remembers which file of a source was imported, so that it is not read again before it changes. False when the source was '
  'dropped meanwhile: what was imported stays. Raises IM101 unless it is a published import of the source, OP102.';

grant execute on function app.cost_source_imported to holdfast_service;
