set local role holdfast_system;

create or replace function app_private.tenant_check(
  name text, plan text, tier text, time_zone text, required_tags text[]) returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  v_wrong text := case
    when coalesce(pg_catalog.length(name), 0) not between 1 and 100 or name <> pg_catalog.btrim(name)
      or name ~ '[[:cntrl:]]' then 'name'
    when not exists (select from app.plans as p where p.plan = tenant_check.plan) then 'plan'
    when tier is not null and not exists (select from app.tiers as t where t.tier = tenant_check.tier)
      then 'tier'
    when not exists (select from pg_catalog.pg_timezone_names as z where z.name = time_zone)
      then 'time_zone'
    when pg_catalog.cardinality(required_tags) > 20
      or exists (select from unnest(required_tags) as r (tag)
                 where coalesce(r.tag, '') !~ '^[^[:cntrl:]]{1,128}$')
      or (select count(distinct r.tag) from unnest(required_tags) as r (tag))
        <> pg_catalog.cardinality(required_tags)
      then 'required_tags' end;
begin
  if v_wrong is not null then
    raise exception using
      errcode = 'TN103',
      message = 'tenant_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', v_wrong),
      hint    = 'A name has 1 to 100 printable characters, a plan is a row of app.plans, a tier one of '
                'app.tiers, a time zone is one like Europe/Berlin, and at most 20 different tags of 1 to 128 characters are required.';
  end if;
end
$$;

comment on function app_private.tenant_check is
  'Raises TN103 unless a tenant may be like this; a tier that is null follows from the plan.';

set local role holdfast_owner;
