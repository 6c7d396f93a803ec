create or replace function app.job_kinds_missing(kinds text[]) returns text[]
language plpgsql
stable
security definer  -- the shell may not read kinds
set search_path = ''
as $$
begin
  return array(
    select distinct w.kind
    from unnest(kinds) as w (kind)
    where not exists (select from app.job_kinds as k where k.kind = w.kind)
    order by w.kind);
end
$$;

comment on function app.job_kinds_missing is
  'Those of these kinds that app.job_kinds does not have: a worker does not start with a task that has no row. Knows no tenant.';

grant execute on function app.job_kinds_missing to holdfast_worker;
