create or replace function app_private.starts_left(
  starts_left numeric, refilled_at timestamptz, at timestamptz, rate_per_minute integer, rate_burst integer)
returns numeric
language sql
immutable
parallel safe
return case
  when refilled_at is null or refilled_at = '-infinity' then rate_burst
  else least(rate_burst, starts_left
    + greatest(0, extract(epoch from at - refilled_at)) * rate_per_minute / 60) end;

comment on function app_private.starts_left is
  'A token bucket (RFC 2697 without the excess bucket): what was left, plus rate x time, at most the burst. A clock that '
  'went back adds nothing.';

grant execute on function app_private.starts_left to holdfast_system, holdfast_ops;
