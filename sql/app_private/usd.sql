create or replace function app_private.usd(nanousd numeric) returns numeric
language sql
immutable
parallel safe
return trim_scale(nanousd / 1000000000);

comment on function app_private.usd is 'Nano-USD as US dollars, exactly.';

grant execute on function app_private.usd to holdfast_system;
