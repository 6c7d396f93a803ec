create or replace function app.cost_import_add(tenant_id uuid, ticket text, import_id uuid, rows text[])
returns integer
language plpgsql
security definer  -- the shell may not write lines
set search_path = ''
set timezone = 'UTC'  -- FOCUS times without a zone are UTC
as $$
declare
  v_count integer;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.cost_import_open(tenant_id, import_id, 'LOADING');

  -- Positional: the columns of app.cost_lines between the key and dq_flags are those of the row literals.
  insert into app.cost_lines
  select cost_import_add.tenant_id, cost_import_add.import_id, c.*, app_private.cost_line_flags(c)
  from unnest(rows::app.cost_line_cells[]) as c;
  get diagnostics v_count = row_count;

  return v_count;
exception
  when data_exception or integrity_constraint_violation then
    raise exception using
      errcode = 'IM102',
      message = 'import_invalid',
      detail  = pg_catalog.jsonb_build_object('sqlstate', sqlstate, 'reason', pg_catalog.left(sqlerrm, 300)),
      hint    = 'No line of this batch was kept. Mark the import failed with app.cost_import_fail.';
end
$$;

comment on function app.cost_import_add is
  'Adds a batch of lines, each a row literal of app.cost_line_cells; about 2,000 a call is quickest. Answers how many. '
  'Raises IM101, IM201, and IM102 when a line does not fit the table: then none of the batch is kept.';

grant execute on function app.cost_import_add to holdfast_service, holdfast_worker;
