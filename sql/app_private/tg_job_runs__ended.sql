create or replace function app_private.tg_job_runs__ended() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if new.state = 'DEAD_LETTER' then
    perform app_private.event_add(new.tenant_id,
      case when new.discarded_at is null then 'run.dead_letter' else 'run.cancelled' end, new.id,
      pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
        'kind', new.kind, 'error_code', new.error_code,
        'reason', case when new.discarded_at is not null then new.reason end)));
  end if;

  if new.slot is not null then
    perform app_private.slots_follow(array[new::app.job_runs]);
  end if;

  if exists (
    select from app.job_runs as r
    where r.tenant_id = new.tenant_id and r.kind = new.kind
      and r.state in ('PENDING', 'FAILED') and r.token_at is null)
    -- Where any number may run, nothing is done before half of the window has begun.
    and not exists (
      select from app.job_kinds as k
      where k.kind = new.kind and k.max_running is null
        and app_private.job_window(null, 1) < 2 * (
          select count(*) from (
            select from app.job_runs as r
            where r.tenant_id = new.tenant_id and r.kind = new.kind and r.token_at is not null
              and r.state in ('PENDING', 'FAILED')
            limit app_private.job_window(null, 1) / 2 + 1) as taken))
  then
    perform app_private.runs_admit(array[new.tenant_id], array[new.kind]);
  end if;
  return null;
end
$$;

comment on function app_private.tg_job_runs__ended is
  'What follows from the end of a run, in the transaction that ends it, whoever does: the event of a dead letter, the next '
  'kind of its slot, and the place in the queue for the tenant''s next run.';

create or replace trigger _220_ended
  after update on app.job_runs
  for each row when (old.finished_at is null and new.finished_at is not null)
  execute function app_private.tg_job_runs__ended();
