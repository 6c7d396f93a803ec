set local role holdfast_system;

create or replace function app.cost_import_sweep(max_rows integer default 20000) returns integer
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_import app.cost_imports;
  v_count  integer;
begin
  -- One by one: what a tenant keeps locked is left for the next time.
  for v_import in
    select i.* from app.cost_imports as i
    where i.status in ('LOADING', 'LOADED') and i.started_at < now() - interval '1 day'
    for no key update skip locked
  loop
    update app.cost_imports as i
    set status = 'FAILED', error = '{"reason": "abandoned"}', finished_at = now()
    where i.tenant_id = v_import.tenant_id and i.id = v_import.id;
  end loop;

  select i.* into v_import
  from app.cost_imports as i
  where i.status in ('SUPERSEDED', 'FAILED') and i.swept_at is null
  order by i.started_at
  limit 1
  for no key update skip locked;
  if not found then
    return 0;
  end if;

  delete from app.cost_lines as l
  where l.tenant_id = v_import.tenant_id
    and l.import_id = v_import.id
    and l.line_no in (
      select b.line_no from app.cost_lines as b
      where b.tenant_id = v_import.tenant_id and b.import_id = v_import.id order by b.line_no limit max_rows);
  get diagnostics v_count = row_count;
  if v_count = max_rows then
    return v_count;
  end if;

  delete from app.cost_daily as d where d.tenant_id = v_import.tenant_id and d.import_id = v_import.id;
  update app.cost_imports as i set swept_at = now()
  where i.tenant_id = v_import.tenant_id and i.id = v_import.id;
  return v_count + 1;
end
$$;

comment on function app.cost_import_sweep is
  'Removes the lines of one superseded or failed import, among all tenants, max_rows at a time; 0 when nothing is '
  'left. An import that was left loading for a day has failed.';

grant execute on function app.cost_import_sweep to holdfast_worker, holdfast_owner;

set local role holdfast_owner;
