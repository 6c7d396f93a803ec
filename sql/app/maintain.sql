create or replace function app.maintain(max_sweeps integer default 2)
returns table (partitions_made integer, partitions_dropped integer, rows_swept bigint)
language plpgsql
security definer  -- the owner alone may add and drop partitions
set search_path = ''
as $$
declare
  v_swept integer;
begin
  rows_swept := app.job_sweep() + app.llm_sweep();
  perform app_private.tokens_unlock_strays();
  for v_sweep in 1 .. max_sweeps loop
    v_swept := app.cost_import_sweep();
    exit when v_swept = 0;
    rows_swept := rows_swept + v_swept;
  end loop;

  -- Last, for it locks the tables that reservations and runs are written to. What was made stays locked until the end, so
  -- that months are dropped by the next call.
  partitions_made := app_private.partitions_make();
  partitions_dropped := case when partitions_made = 0 then app_private.partitions_drop() else 0 end;
  return next;
end
$$;

comment on function app.maintain is
  'What must be done now and then: partitions ahead of time, months that nobody needs, lines of imports that nobody sees, old '
  'slots and keys of runs, old keys of reservations, tokens that nobody holds any more. A table that stayed locked for 3 s is left for the next time, with a warning. Each call is one '
  'short transaction: call again while one of its answers is not 0. Safe at any time and by many.';

grant execute on function app.maintain to holdfast_worker, holdfast_ops;
