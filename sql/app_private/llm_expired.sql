create or replace function app_private.llm_expired(max_rows integer)
returns table (tenant_id uuid, id uuid)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select e.tenant_id, e.id
  from (
    select r.tenant_id, r.id, r.expires_at,
           row_number() over (partition by r.tenant_id order by r.expires_at) as place
    from app.llm_reservations as r
    where r.status = 'RESERVED' and r.expires_at < pg_catalog.clock_timestamp()) as e
  order by e.place, e.expires_at
  limit max_rows;
end
$$;

comment on function app_private.llm_expired is
  'Holds past their time, the oldest of each tenant first: what one tenant keeps locked must not fill a batch.';

grant execute on function app_private.llm_expired to holdfast_system;
