create or replace function app.maintain(max_sweeps integer default 2)
returns table (partitions_made integer, rows_swept bigint)
language plpgsql
security definer  -- the owner alone may add partitions
set search_path = ''
as $$
declare
  v_swept integer;
begin
  rows_swept := 0;
  for v_sweep in 1 .. max_sweeps loop
    v_swept := app.cost_import_sweep();
    exit when v_swept = 0;
    rows_swept := rows_swept + v_swept;
  end loop;

  -- Last, for it locks the tables that reservations and runs are written to. A reader who keeps one open must not undo
  -- the sweep: they are made months ahead, and the next hour tries again.
  begin
    partitions_made := app_private.partitions_make();
  exception
    when lock_not_available then
      raise warning 'app.maintain: no partition was made, for a table stayed locked';
  end;
  return next;
end
$$;

comment on function app.maintain is
  'What must be done now and then: partitions ahead of time, lines of imports that nobody sees. '
  'partitions_made is null when a table stayed locked for 3 s. Each call is one short transaction: call again while '
  'rows_swept is not 0. Safe at any time and by many.';

grant execute on function app.maintain to holdfast_worker, holdfast_ops;
