create or replace function app_private.presumed_check(
  anchor_day integer, presumed_policy text, presumed_after interval) returns void
language plpgsql
immutable
set search_path = ''
as $$
declare
  v_wrong text := case
    when coalesce(anchor_day not between 1 and 31, true) then 'anchor_day'
    when coalesce(presumed_policy not in ('hold', 'release_after', 'charge_worst_case'), true)
      then 'presumed_policy'
    when (presumed_policy = 'release_after') <> (presumed_after is not null) then 'presumed_after'
    -- A month or a year has no fixed length.
    when presumed_after < interval '1 minute' or presumed_after > interval '366 days'
      or extract(month from presumed_after) <> 0 or extract(year from presumed_after) <> 0
      then 'presumed_after' end;
begin
  if v_wrong is not null then
    raise exception using
      errcode = 'TN103',
      message = 'tenant_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', v_wrong),
      hint    =
        'An anchor day is 1 to 31; a policy for PRESUMED holds is hold, release_after or charge_worst_case; release_after, '
        'and it alone, has presumed_after: a minute to 366 days, said in days or less.';
  end if;
end
$$;

comment on function app_private.presumed_check is
  'Raises TN103 unless the months of a tenant may begin then, and its PRESUMED holds end like that.';

grant execute on function app_private.presumed_check to holdfast_system;
