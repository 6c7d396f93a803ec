create or replace function app.job_progress(
  tenant_id uuid, ticket text, run_id uuid, attempt integer, progress real, progress_text text default null)
returns void
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_cancelled boolean;
begin
  perform app.enter(tenant_id, ticket);
  if progress is null or progress not between 0 and 1 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', 'progress'),
      hint    = 'Progress is a number from 0 to 1.';
  end if;

  update app.job_runs as r
  set progress = job_progress.progress, progress_text = pg_catalog.left(job_progress.progress_text, 200)
  where r.tenant_id = job_progress.tenant_id
    and r.id = run_id
    and r.attempt = job_progress.attempt
    and r.state = 'RUNNING'
  returning r.cancel_requested_at is not null into v_cancelled;
  if not found then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;
  if v_cancelled then
    perform app_private.job_cancelled(run_id);
  end if;
end
$$;

comment on function app.job_progress is
  'Notes how much of an attempt is done, 0 to 1, and what it is at. Raises JB101, JB201, JB203 when its end was asked for, OP102.';

grant execute on function app.job_progress to holdfast_worker, holdfast_service;
