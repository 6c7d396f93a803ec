create or replace function app_private.narration_refuse(reason text) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'NA102',
    message = 'analysis_invalid',
    detail  = pg_catalog.jsonb_build_object('reason', reason),
    hint    =
      'Items name findings of the tenant, at most 200 and 1,000 characters, and numbers only as {{slots}}.';
end
$$;

comment on function app_private.narration_refuse is
  'Raises NA102: the wording of an analysis is not one that SQL accepts.';
