create or replace function app.cost_sources_list(tenant_id uuid, ticket text)
returns table (source text, path text, last_digest text)
language plpgsql
security definer  -- the shell may not read sources
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);

  return query
  select s.source, s.path, case when i.id is not null then s.last_digest end
  from app.cost_sources as s
  -- A file that a later import has taken months from is read again, though it is the same.
  left join app.cost_imports as i
    on i.tenant_id = s.tenant_id and i.id = s.last_import_id and i.status = 'PUBLISHED'
      and not exists (
        select from app.cost_daily as d
        join app.cost_periods as p
          on p.tenant_id = d.tenant_id and p.source = s.source
            and p.billing_period_start = d.billing_period_start
        where d.tenant_id = i.tenant_id and d.import_id = i.id and p.import_id <> i.id)
  where s.tenant_id = cost_sources_list.tenant_id
  order by s.source;
end
$$;

comment on function app.cost_sources_list is
  'The cost sources of a tenant, for a worker to read. last_digest is the SHA-256, in hex, of the file whose import stands '
  'for all its months; null when the file is to be read whatever it holds.';

grant execute on function app.cost_sources_list to holdfast_service;
