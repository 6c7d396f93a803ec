create or replace function app_private.job_pause_set(
  tenant text, kind text, cohort text, paused boolean, dry_run boolean)
returns table (what text, name text, before timestamptz, after timestamptz)
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := pg_catalog.clock_timestamp();
begin
  if pg_catalog.num_nonnulls(tenant, kind, cohort) <> 1 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('arguments', array['tenant', 'kind', 'cohort']),
      hint    = 'Name one of them: tenant => ''Acme'', kind => ''analysis'', or cohort => ''DORMANT''.';
  end if;

  what := case when tenant is not null then 'tenant' when kind is not null then 'kind' else 'cohort' end;
  name := coalesce(tenant, kind, cohort);
  if tenant is not null then
    select t.jobs_paused_at into before from app.tenants as t
    where t.tenant_id = app.tenant_find(tenant) for no key update;
  elsif kind is not null then
    select k.paused_at into before from app.job_kinds as k
    where k.kind = job_pause_set.kind for no key update;
  else
    select c.paused_at into before from app.tiers as c
    where c.tier = cohort for no key update;
  end if;
  if not found then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', what),
      hint    = 'There is none of that name: see app.job_kinds and app.tiers.';
  end if;

  -- Paused once, it keeps the moment at which that was.
  after := case when paused then coalesce(before, v_now) end;
  if not dry_run and after is distinct from before then
    update app.tenants as t set jobs_paused_at = after, version = t.version + 1, updated_at = v_now
    where what = 'tenant' and t.name = job_pause_set.tenant;
    update app.job_kinds as k set paused_at = after where what = 'kind' and k.kind = job_pause_set.kind;
    update app.tiers as c set paused_at = after where what = 'cohort' and c.tier = cohort;
  end if;
  return next;
end
$$;

comment on function app_private.job_pause_set is
  'Pauses the one tenant, kind or cohort that is named, or ends its pause; answers since when it was and is paused. Raises OP102, TN101.';

grant execute on function app_private.job_pause_set to holdfast_system;
