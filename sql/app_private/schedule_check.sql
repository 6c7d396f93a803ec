create or replace function app_private.schedule_check(every interval, daily_at time) returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  if every is not null and daily_at is not null
    or every not between interval '1 minute' and interval '31 days'
    or extract(month from every) <> 0 or extract(year from every) <> 0
    or extract(epoch from every) <> pg_catalog.floor(extract(epoch from every))
    or extract(epoch from daily_at) <> pg_catalog.floor(extract(epoch from daily_at))
    or daily_at >= '24:00'
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('every', every, 'daily_at', daily_at),
      hint    =
        'A turn comes every 1 minute to 31 days, or daily at a time from 00:00 to 23:59:59, in whole seconds.';
  end if;
end
$$;

comment on function app_private.schedule_check is 'Raises OP102 unless turns may come like this.';

grant execute on function app_private.schedule_check to holdfast_system;
