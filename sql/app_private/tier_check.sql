create or replace function app_private.tier_check(cohort app.tiers) returns void
language plpgsql
immutable
set search_path = ''
as $$
declare
  v_wrong constant text := case
    when cohort.tier is null then 'tier'
    when cohort.every not between interval '1 minute' and interval '31 days'
      or extract(month from cohort.every) <> 0 or extract(year from cohort.every) <> 0
      or extract(epoch from cohort.every) <> pg_catalog.floor(extract(epoch from cohort.every)) then 'every'
    when cohort.weight not between 0.1 and 100 then 'weight'
    when cohort.missed not in ('latest', 'all', 'skip') then 'missed'
    when cohort.missed_max not between 1 and 1000 then 'missed_max'
    when (cohort.missed = 'skip') <> (cohort.skip_after is not null) or cohort.skip_after <= interval '0'
      then 'skip_after'
    when cohort.overlap not in ('skip', 'queue', 'cancel')
      or cohort.missed = 'all' and cohort.overlap <> 'queue' then 'overlap' end;
begin
  if v_wrong is not null then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', v_wrong),
      hint    = 'A tier is a row of app.tiers. '
                'Turns come every 1 minute to 31 days, in whole seconds; weight is 0.1 to 100; '
                'missed is latest, all (with overlap queue; missed_max is 1 to 1000) or skip (with skip_after); overlap is '
                'skip, queue or cancel.';
  end if;
end
$$;

comment on function app_private.tier_check is 'Raises OP102 unless a cohort may be like this.';

grant execute on function app_private.tier_check to holdfast_system;
