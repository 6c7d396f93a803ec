create or replace function app_private.usd(nanousd numeric) returns numeric
language sql
immutable
parallel safe
return trim_scale(nanousd * 0.000000001);  -- a quotient is rounded, a product is not

comment on function app_private.usd is 'Nano-USD as US dollars, exactly.';

grant execute on function app_private.usd to holdfast_system;
